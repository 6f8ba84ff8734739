import { webgpuBackend } from "@transmla/backend-webgpu";
import type { Backend } from "@transmla/core";

import { hasAdapter } from "../../../test/adapter.ts";
import { backendIn, mainModes } from "../../backend-cpu/test/modes.ts";

type Named = readonly [name: string, backend: Backend];

/** The CPU backend in each of its modes. */
export const cpuBackends: readonly Named[] = await Promise.all(
  Object.entries(mainModes).map(async ([name, mode]) => [name, await backendIn(mode)] as const),
);

/** Every backend that this machine has. */
export const backends: readonly Named[] = [
  ...cpuBackends,
  ...(hasAdapter ? [["webgpu", await webgpuBackend()] as const] : []),
];
