import type { FusedOps } from "@transmla/core";

import { asFloats, narrow } from "../convert.ts";
import { forEachRow, isHalf, startOf, type CpuKernel, type CpuOperand } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import { exp } from "./functions.ts";
import { maxOf } from "./reduce.ts";

/** Runs a function on every row of `x` and the row of `out` that it makes, both as f32. */
function overRows(
  memory: Memory,
  out: CpuOperand,
  x: CpuOperand,
  run: (f: Float32Array, to: number, from: number) => void,
): void {
  const { dtype } = out;
  const count = x.shape.at(-1)!;
  const scratch = memory.scratch(isHalf(dtype) ? count : 0);
  const { f32 } = memory;
  forEachRow(x.shape, [out, x], ([to, from]) => {
    if (isHalf(dtype)) {
      run(f32, scratch, asFloats(memory, dtype, from!, count, scratch));
      narrow(memory, dtype, { at: scratch, step: 1 }, { at: to!, step: 1 }, count);
    } else run(f32, to!, from!);
  });
}

/** Softmax over the last axis. */
export const softmax: CpuKernel<FusedOps["softmax"]> = (memory, out, [x]) => {
  const count = x!.shape.at(-1)!;
  overRows(memory, out, x!, (f, to, from) => softmaxRow(f, to, from, count));
};

function softmaxRow(f: Float32Array, to: number, from: number, count: number): void {
  const max = maxOf(f, from, count);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const e = exp(f[from + i]! - max);
    f[to + i] = e;
    sum += e;
  }
  const factor = 1 / sum;
  for (let i = to; i < to + count; i++) f[i]! *= factor;
}

/** Root-mean-square normalisation over the last axis. */
export const rmsNorm: CpuKernel<FusedOps["rmsNorm"]> = (
  memory,
  out,
  [x, weight],
  { eps, offset },
) => {
  const count = x!.shape.at(-1)!;
  const weightScratch = memory.scratch(isHalf(weight!.dtype) ? count : 0);
  const w = asFloats(memory, weight!.dtype, startOf(weight!), count, weightScratch);
  overRows(memory, out, x!, (f, to, from) => {
    let squares = 0;
    for (let i = from; i < from + count; i++) squares += f[i]! * f[i]!;
    const factor = 1 / Math.sqrt(squares / count + eps);
    for (let i = 0; i < count; i++) f[to + i] = f[from + i]! * factor * (f[w + i]! + offset);
  });
};
