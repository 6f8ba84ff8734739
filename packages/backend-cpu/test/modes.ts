import type { CpuBackendOptions } from "../src/index.ts";

/** The ways in which products can be computed. */
export const modes: Readonly<Record<string, CpuBackendOptions>> = {
  cpu: {},
  "deterministic cpu": { deterministic: true },
  "cpu without WebAssembly kernels": { webAssembly: false },
};
