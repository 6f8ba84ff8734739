import { cpuBackend } from "@transmla/backend-cpu";
import { webgpuBackend } from "@transmla/backend-webgpu";
import type { Backend } from "@transmla/core";

import { hasAdapter } from "../../../../test/adapter.ts";

/** Every backend that this machine has. */
export const backends: readonly Backend[] = [
  await cpuBackend(),
  ...(hasAdapter ? [await webgpuBackend()] : []),
];
