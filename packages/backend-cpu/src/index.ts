import type { Backend } from "@transmla/core";

import { backendOn } from "./backend.ts";
import { ADDRESS_SPACE, Memory, type CpuBuffer } from "./memory.ts";
import { defaultThreads } from "./threads/start.ts";

export type { CpuBuffer } from "./memory.ts";

/** Settings of {@link cpuBackend}. */
export interface CpuBackendOptions {
  /** How far the memory may grow, in bytes: from 65,536 to 4,294,967,296, which is the default. */
  readonly maxBytes?: number;
  /**
   * Whether kernels do without relaxed vector instructions, which round as suits the processor and make products up to
   * twice as fast. Then one version of a JavaScript engine gives the same bits on every machine. `false` by default.
   */
  readonly deterministic?: boolean;
  /**
   * Whether kernels in WebAssembly may be used; `true` by default. `false` leaves those in plain TypeScript, which also
   * serve where the engine or a Content-Security-Policy does not let WebAssembly be compiled.
   */
  readonly webAssembly?: boolean;
  /**
   * Whether V8 is asked to join pairs of vectors of 128 bits (Node 24 and later; elsewhere this has no effect). Products
   * become up to 1.9 times as fast, where a probe of at most 0.3 s shows it. The flag of V8 is experimental, and the whole
   * process has it from then on. `false` by default.
   */
  readonly revectorize?: boolean;
  /**
   * How many threads compute. By default as many as the machine runs at once, but no more than eight; one where memory
   * cannot be shared: in pages that are not isolated from other origins. Results are the same bits for any number.
   *
   * Workers start with the first operation that is worth it, sleep when there is nothing to do, and never keep a process
   * alive.
   */
  readonly threads?: number;
}

/**
 * Makes a backend that runs on the processor. All tensors lie in one WebAssembly memory, which grows as needed and
 * never shrinks; `dispose()` drops it.
 *
 * Arithmetic is in f32 or better whatever the dtype, and results are rounded once. `allocate` throws a `BackendError`
 * when the memory cannot grow; every use after `dispose()` throws a `StateError`.
 *
 * @param options - Settings.
 *
 * @example
 * ```ts
 * import { cpuBackend } from "@transmla/backend-cpu";
 * import { softmax, tensor } from "@transmla/core";
 * const backend = await cpuBackend();
 * const x = tensor(backend, [0, 0, 0, 0], [4]);
 * console.log(Array.from(await softmax(x).read())); // => [0.25, 0.25, 0.25, 0.25]
 * ```
 */
export async function cpuBackend(options: CpuBackendOptions = {}): Promise<Backend<CpuBuffer>> {
  const { maxBytes = ADDRESS_SPACE, threads = defaultThreads() } = options;
  return backendOn(new Memory(maxBytes, { ...options, threads }));
}
