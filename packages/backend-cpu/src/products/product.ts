import { isBlock } from "@transmla/core";

import { isHalf } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import {
  areColumnsAdjacent,
  asFloatMatrix,
  clear,
  part,
  widenedSize,
  type Matrix,
  type StoredMatrix,
  type Unplaced,
} from "./matrix.ts";
import { takePlainProduct } from "./plain.ts";
import { FEW_ROUNDED, takeRoundedProduct } from "./rounded.ts";
import { takeSimdProduct } from "./simd.ts";

/**
 * `c = a · b`, or `c += a · b` where `accumulate` is true: `a` `[m, k]` holds floats, `b` `[k, n]` floats or blocks, `c`
 * `[m, n]` f32 apart from them; its columns follow one another.
 */
export type Product = (a: StoredMatrix, b: StoredMatrix, c: Matrix, accumulate: boolean) => void;

/**
 * Takes scratch for products.
 *
 * @param memory - Where everything lies.
 * @param a - The largest left matrix.
 * @param b - The largest right matrix.
 */
export function takeProduct(memory: Memory, a: Unplaced, b: Unplaced): Product {
  const { simd } = memory;
  if (isBlock(b.dtype)) return takeWidenedProduct(memory, a, b);
  if (simd) return takeSimdProduct(memory, simd, a, b);
  return isHalf(b.dtype) ? takeWidenedProduct(memory, a, b) : takePlainProduct(memory, a, b);
}

/**
 * Takes scratch for products with weights: where those are blocks, few rows are rounded to integers, which meet those of
 * the blocks where they lie.
 *
 * @param memory - Where everything lies.
 * @param a - The largest left matrix.
 * @param b - The largest right matrix.
 */
export function takeWeightProduct(memory: Memory, a: Unplaced, b: Unplaced): Product {
  const many = takeProduct(memory, a, b);
  if (!memory.simd || !isBlock(b.dtype)) return many;
  const few = takeRoundedProduct(memory, memory.simd, a, b);
  return (left, right, out, accumulate) => {
    const fits = left.rows <= FEW_ROUNDED && left.columnStep === 1 && areColumnsAdjacent(right);
    (fits ? few : many)(left, right, out, accumulate);
  };
}

// Parts of a right matrix that are widened together: whole blocks in both directions.
const PART_DEPTH = 512;
const PART_COLUMNS = 256;

/** Products with a right matrix that is widened part by part. */
function takeWidenedProduct(memory: Memory, a: Unplaced, b: Unplaced): Product {
  const [rows, columns] = [Math.min(b.rows, PART_DEPTH), Math.min(b.columns, PART_COLUMNS)];
  const widened = memory.scratch(widenedSize({ dtype: b.dtype, rows, columns }));
  const multiply = takeProduct(memory, { ...a, columns: rows }, { dtype: "f32", rows, columns });
  return (left, right, out, accumulate) => {
    const [m, k, n] = [left.rows, right.rows, right.columns];
    if (k === 0 && !accumulate) clear(memory, out);
    for (let j = 0; j < n; j += PART_COLUMNS) {
      const columns = Math.min(PART_COLUMNS, n - j);
      for (let p = 0; p < k; p += PART_DEPTH) {
        const depth = Math.min(PART_DEPTH, k - p);
        const w = asFloatMatrix(memory, part(right, p, depth, j, columns), widened);
        const x = part(left, 0, m, p, depth);
        multiply(x, { ...w, dtype: "f32" }, part(out, 0, m, j, columns), accumulate || p > 0);
      }
    }
  };
}
