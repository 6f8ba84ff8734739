import type { Block } from "../blas.ts";
import { largestMagnitude, matrix, TRANSPOSED_ROWS } from "../matrix.ts";
import type { Matrix } from "../matrix.ts";

/** Magnitudes within this relative distance of the largest count as equal to it. */
const TIE = 1e-9;

/** Indices of the values from the largest to the smallest. */
export function descending(values: Float64Array): number[] {
  return Array.from(values.keys()).toSorted((i, j) => values[j]! - values[i]!);
}

/** Index of the first entry of the largest magnitude, up to rounding; -1 when there is none. */
export function dominantIndex(entries: Float64Array): number {
  const bound = (1 - TIE) * largestMagnitude(entries);
  return entries.findIndex((x) => Math.abs(x) >= bound);
}

/** -1 or 1: what makes the first of the largest entries of row `i` positive. */
export function normalisingSign(rows: Block, i: number): number {
  const start = rows.offset + i * rows.rowStride;
  const row = rows.data.subarray(start, start + rows.cols);
  return (row[dominantIndex(row)] ?? 0) < 0 ? -1 : 1;
}

/** A matrix whose column j is row `order[j]` times `signs[j]`. No zero is negative. */
export function columnsFromRows(
  rows: Block,
  order: readonly number[],
  signs: readonly number[],
): Matrix {
  const count = order.length;
  const result = matrix(rows.cols, count);
  const starts = Int32Array.from(order, (from) => rows.offset + from * rows.rowStride);
  for (let first = 0; first < count; first += TRANSPOSED_ROWS) {
    const end = Math.min(first + TRANSPOSED_ROWS, count);
    for (let i = 0; i < rows.cols; i++) {
      for (let j = first; j < end; j++) {
        result.data[i * count + j] = signs[j]! * rows.data[starts[j]! + i]! + 0;
      }
    }
  }
  return result;
}
