import type { PrimitiveOps } from "@transmla/core";

import { baseOf, forEachRow, type CpuKernel, type CpuOperand } from "../kernel.ts";
import { takeStoredProduct } from "../products/stored.ts";

/** `a[..., m, k] · b[..., k, n]`; What is not f32 is widened part by part. */
export const matmul: CpuKernel<PrimitiveOps["matmul"]> = (memory, out, [a, b]) => {
  const { axes, rows, rowStep } = foldedRows(a!, b!);
  const [depth, columns] = b!.shape.slice(-2) as [number, number];
  const [right, rightColumn] = b!.strides.slice(-2) as [number, number];
  const left = { dtype: a!.dtype, rows, columns: depth, rowStep, columnStep: a!.strides.at(-1)! };
  const from = {
    dtype: b!.dtype,
    base: baseOf(b!),
    rows: depth,
    columns,
    rowStep: right,
    columnStep: rightColumn,
  };
  const to = { dtype: out.dtype, rows, columns, rowStep: columns, columnStep: 1 };
  const multiply = takeStoredProduct(memory, left, from, to);
  forEachRow(out.shape.slice(0, axes + 1), [out, a!, b!], ([outAt, aAt, bAt]) => {
    multiply({ ...left, at: aAt! }, { ...from, at: bAt! }, { ...to, at: outAt! });
  });
};

/**
 * Batch axes over which `b` is repeated and `a` steps evenly are rows of one larger product: how many axes remain, and
 * the rows. `out` is dense, so its rows always follow one another.
 */
function foldedRows(
  a: CpuOperand,
  b: CpuOperand,
): { readonly axes: number; readonly rows: number; readonly rowStep: number } {
  let axes = a.shape.length - 2;
  let rows = a.shape[axes]!;
  let rowStep = a.strides[axes]!;
  for (; axes > 0; axes--) {
    const size = a.shape[axes - 1]!;
    const step = a.strides[axes - 1]!;
    if (size === 1) continue;
    if (b.strides[axes - 1] !== 0 || (rows !== 1 && step !== rows * rowStep)) break;
    if (rows === 1) rowStep = step;
    rows *= size;
  }
  return { axes, rows, rowStep };
}
