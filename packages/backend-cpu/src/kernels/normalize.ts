import { collapse, type FusedOps } from "@transmla/core";

import { asFloats, narrow } from "../convert.ts";
import { forEachRow, isHalf, startOf, type CpuKernel, type CpuOperand } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import type { Call, Kernels } from "../simd/kernels.ts";
import { rowFunctions, type RowFunctions } from "./rows.ts";

/** About how long one element of a row takes. */
const NANOSECONDS = 1;

/** Rows that lie equally far apart, in bytes. */
interface EvenRows {
  readonly from: number;
  readonly fromBytes: number;
  readonly to: number;
  readonly toBytes: number;
  readonly rows: number;
}

/** Calls a kernel for the f32 rows of `x` and `out`, as many at a time as lie equally far apart, divided among threads. */
function overEvenRows(
  kernels: Kernels,
  out: CpuOperand,
  x: CpuOperand,
  run: (call: Call, rows: EvenRows) => void,
): void {
  const count = x.shape.at(-1)!;
  const axes = collapse(x.shape.slice(0, -1), [out.strides.slice(0, -1), x.strides.slice(0, -1)]);
  const operands = [out, x].map(({ dtype, buffer, offset }, i): CpuOperand => {
    return { dtype, buffer, offset, shape: axes.shape, strides: axes.strides[i]! };
  });
  const [toBytes, fromBytes] = axes.strides.map((steps) => 4 * (steps.at(-1) ?? 0)) as [
    number,
    number,
  ];
  const items = axes.shape.at(-1) ?? 1;
  const work = { items, multiple: 1, nanoseconds: items * count * NANOSECONDS };
  forEachRow(axes.shape, operands, ([to, from]) => {
    kernels.split(work, (call, begin, end) => {
      run(call, {
        from: 4 * from! + begin * fromBytes,
        fromBytes,
        to: 4 * to! + begin * toBytes,
        toBytes,
        rows: end - begin,
      });
    });
  });
}

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
  if (memory.simd && !isHalf(out.dtype)) {
    overEvenRows(memory.simd, out, x!, (call, { from, fromBytes, to, toBytes, rows }) => {
      call("softmax", from, fromBytes, to, toBytes, rows, count);
    });
    return;
  }
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
  if (memory.simd && !isHalf(out.dtype)) {
    overEvenRows(memory.simd, out, x!, (call, { from, fromBytes, to, toBytes, rows }) => {
      call("norm", from, fromBytes, to, toBytes, 4 * w, rows, count, count, eps, offset);
    });
    return;
  }
  overRows(memory, out, x!, (rows, to, from) => {
    const factor = 1 / Math.sqrt(rows.sumOfSquares(from, count) / count + eps);
    rows.weigh({ from, weight: w, to, count }, factor, offset);
  });
};
