import type { Backend } from "@transmla/core";

import { backendOn } from "../src/backend.ts";
import { Memory, type KernelOptions } from "../src/memory.ts";

/** The ways in which kernels compute. Where there are threads, they share whatever can be divided. */
export const modes: Readonly<Record<string, KernelOptions>> = {
  cpu: {},
  "deterministic cpu": { deterministic: true },
  "cpu without WebAssembly kernels": { webAssembly: false },
  "revectorised cpu": { revectorize: true },
  "cpu with 2 threads": { threads: 2, worth: { awake: 1, asleep: 1 } },
  "deterministic cpu with 3 threads": {
    deterministic: true,
    threads: 3,
    worth: { awake: 1, asleep: 1 },
  },
};

/** The backend of a mode. */
export function backendIn(mode: KernelOptions): Backend {
  return backendOn(new Memory(2 ** 32, mode));
}
