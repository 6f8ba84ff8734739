import type { Backend, Kernel, Kernels, Ops } from "@transmla/core";

import type { CpuKernel } from "./kernel.ts";
import { attention } from "./kernels/attention.ts";
import { copy, fill } from "./kernels/copy.ts";
import { binary, gatedActivation, unary } from "./kernels/elementwise.ts";
import { expertMatmul } from "./kernels/experts.ts";
import { gather } from "./kernels/gather.ts";
import { matmul } from "./kernels/matmul.ts";
import { rmsNorm, softmax } from "./kernels/normalize.ts";
import { reduce } from "./kernels/reduce.ts";
import { rope } from "./kernels/rope.ts";
import { topK } from "./kernels/top-k.ts";
import { blasOn } from "./linalg/blas.ts";
import { ADDRESS_SPACE, Memory, type CpuBuffer } from "./memory.ts";

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
  const memory = new Memory(options.maxBytes ?? ADDRESS_SPACE, options);
  return {
    name: "cpu",
    kernels: kernelsOn(memory),
    ...(memory.simd && { blas: blasOn(memory, memory.simd) }),
    allocate: (bytes) => memory.allocate(bytes),
    release: (buffer) => memory.release(buffer),
    write: (buffer, data) => memory.bytes("write", buffer, 0, data.byteLength).set(data),
    read: async (buffer, start, length) => memory.bytes("read", buffer, start, length).slice(),
    memory: () => memory.count,
    dispose: () => memory.dispose(),
  };
}

/** The table of kernels. Scratch that a kernel takes is given back when it returns or throws. */
function kernelsOn(memory: Memory): Kernels<CpuBuffer> {
  const bound = <Attributes>(
    name: keyof Ops,
    kernel: CpuKernel<Attributes>,
  ): Kernel<CpuBuffer, Attributes> => {
    return (out, inputs, attributes) => {
      memory.requireOpen(name);
      try {
        kernel(memory, out, inputs, attributes);
      } finally {
        memory.releaseScratch();
      }
    };
  };
  return {
    fill: bound("fill", fill),
    copy: bound("copy", copy),
    unary: bound("unary", unary),
    binary: bound("binary", binary),
    reduce: bound("reduce", reduce),
    matmul: bound("matmul", matmul),
    gather: bound("gather", gather),
    topK: bound("topK", topK),
    softmax: bound("softmax", softmax),
    rmsNorm: bound("rmsNorm", rmsNorm),
    rope: bound("rope", rope),
    attention: bound("attention", attention),
    gatedActivation: bound("gatedActivation", gatedActivation),
    expertMatmul: bound("expertMatmul", expertMatmul),
  };
}
