import type { Backend, Kernel, Kernels, Ops } from "@transmla/core";

import type { CpuKernel } from "./kernel.ts";
import { attention } from "./kernels/attention/attention.ts";
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
import type { CpuBuffer, Memory } from "./memory.ts";

/**
 * The backend over a memory, which it owns.
 *
 * @param memory - Where its tensors lie.
 */
export function backendOn(memory: Memory): Backend<CpuBuffer> {
  return {
    name: "cpu",
    kernels: kernelsOn(memory),
    ...(memory.simd && { blas: blasOn(memory, memory.simd) }),
    allocate: (bytes) => memory.allocate(bytes),
    release: (buffer) => memory.release(buffer),
    write: (buffer, data) => memory.bytes("write", buffer, 0, data.byteLength).set(data),
    read: async (buffer, start, length) => memory.bytes("read", buffer, start, length).slice(),
    memory: () => memory.count,
    capacity: memory.limit,
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
