import type { Memory } from "../memory.ts";
import type { Kernels } from "../simd/kernels.ts";
import {
  areColumnsAdjacent,
  transposed,
  widenedRows,
  widenedSize,
  type Matrix,
  type StoredMatrix,
  type Unplaced,
} from "./matrix.ts";
import type { Product } from "./product.ts";

/** Rows of a product beyond which packing its right matrix pays. */
export const MOST_HEADS = 16;

/** Gives a matrix as f32: where it lies, or widened into scratch. */
export type Reader = (x: StoredMatrix) => StoredMatrix;

/**
 * Takes scratch for keys and values that are widened in turn. Values that are the first elements of the keys before them
 * are not widened again.
 *
 * @param memory - Where they lie.
 * @param keys - The largest block of keys.
 * @param values - The largest block of values.
 */
export function takeReader(memory: Memory, keys: Unplaced, values: Unplaced): Reader {
  const sizes = [keys, values].map((x) => (x.dtype === "f32" ? 0 : widenedSize(x)));
  const scratch = memory.scratch(Math.max(...sizes));
  let held: { readonly from: StoredMatrix; readonly wide: Matrix } | undefined;
  return (x) => {
    if (x.dtype === "f32") return x;
    const turned = areColumnsAdjacent(x);
    const from = turned ? transposed(x) : x;
    if (!held || !startsWith(held.from, from)) {
      held = { from, wide: widenedRows(memory, from, scratch) };
    }
    const wide: StoredMatrix = { ...held.wide, columns: from.columns, dtype: "f32" };
    return turned ? transposed(wide) : wide;
  };
}

/** Whether each row of a matrix begins with that of another. */
function startsWith(x: StoredMatrix, other: StoredMatrix): boolean {
  return (
    x.base === other.base &&
    x.at === other.at &&
    x.rows === other.rows &&
    x.rowStep === other.rowStep &&
    x.columns >= other.columns
  );
}

/** The arguments that both kernels share: where rows, lines and results lie. */
function addresses(x: Matrix, w: Matrix, lineStep: number, y: Matrix): readonly number[] {
  return [x.at, x.rowStep, w.at, lineStep, y.at, y.rowStep].map((elements) => 4 * elements);
}

/**
 * Products of a few rows with columns whose elements are adjacent: queries with keys.
 *
 * @param kernels - The kernels over the memory.
 * @param read - Reads keys.
 */
export function headScores(kernels: Kernels, read: Reader): Product {
  return (x, keys, y) => {
    const w = read(keys);
    kernels.get("scores")(...addresses(x, w, w.columnStep, y), x.rows, w.columns, w.rows);
  };
}

/**
 * What products of a few rows with rows whose elements are adjacent add to a matrix: weights with values.
 *
 * @param kernels - The kernels over the memory.
 * @param read - Reads values.
 */
export function headMix(kernels: Kernels, read: Reader): Product {
  return (x, values, y) => {
    const w = read(values);
    kernels.get("mix")(...addresses(x, w, w.rowStep, y), x.rows, w.rows, w.columns);
  };
}
