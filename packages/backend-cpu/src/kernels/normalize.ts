import type { FusedOps } from "@transmla/core";

import { asFloats, narrow } from "../convert.ts";
import { forEachRow, isHalf, startOf, type CpuKernel, type CpuOperand } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import { rowFunctions, type RowFunctions } from "./rows.ts";

/** Runs a function on every row of `x` and the row of `out` that it makes, both as f32. */
function overRows(
  memory: Memory,
  out: CpuOperand,
  x: CpuOperand,
  run: (rows: RowFunctions, to: number, from: number) => void,
): void {
  const { dtype } = out;
  const count = x.shape.at(-1)!;
  const scratch = memory.scratch(isHalf(dtype) ? count : 0);
  const rows = rowFunctions(memory);
  forEachRow(x.shape, [out, x], ([to, from]) => {
    if (isHalf(dtype)) {
      run(rows, scratch, asFloats(memory, dtype, from!, count, scratch));
      narrow(memory, dtype, { at: scratch, step: 1 }, { at: to!, step: 1 }, count);
    } else run(rows, to!, from!);
  });
}

/** Softmax over the last axis. */
export const softmax: CpuKernel<FusedOps["softmax"]> = (memory, out, [x]) => {
  const count = x!.shape.at(-1)!;
  overRows(memory, out, x!, (rows, to, from) => {
    const sum = rows.exponentials(from, to, count, rows.largest(from, count));
    rows.scale(to, count, 1 / sum);
  });
};

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
  overRows(memory, out, x!, (rows, to, from) => {
    const factor = 1 / Math.sqrt(rows.sumOfSquares(from, count) / count + eps);
    rows.weigh({ from, weight: w, to, count }, factor, offset);
  });
};
