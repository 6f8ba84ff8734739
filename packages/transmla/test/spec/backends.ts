import { cpuBackend } from "@transmla/backend-cpu";
import type { Backend } from "@transmla/core";

/** Every backend that this machine has. */
export const backends: readonly Backend[] = [await cpuBackend()];
