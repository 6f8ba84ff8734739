import { isHalf } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import { narrowMatrix, part, type StoredMatrix, type Unplaced } from "./matrix.ts";
import { takeWeightProduct } from "./product.ts";

/** Rows of a product that are rounded to 16 bits together. */
const ROWS = 192;

/** `out = a · b` for floats of any dtypes; `out` is dense, apart from `a` and `b`. */
export type StoredProduct = (a: StoredMatrix, b: StoredMatrix, out: StoredMatrix) => void;

/**
 * Takes scratch for products whose result may be stored in 16 bits.
 *
 * @param memory - Where everything lies.
 * @param a - The largest left matrix.
 * @param b - The largest right matrix.
 * @param out - The largest product.
 */
export function takeStoredProduct(
  memory: Memory,
  a: Unplaced,
  b: Unplaced,
  out: Unplaced,
): StoredProduct {
  const step = isHalf(out.dtype) ? Math.min(out.rows, ROWS) : out.rows;
  const product = takeWeightProduct(memory, { ...a, rows: step }, b);
  if (!isHalf(out.dtype)) return (left, right, to) => product(left, right, to, false);
  const scratch = memory.scratch(step * out.columns);
  return (left, right, to) => {
    const { columns } = to;
    for (let i = 0; i < to.rows; i += step) {
      const rows = Math.min(step, to.rows - i);
      const wide = { at: scratch, rows, columns, rowStep: columns, columnStep: 1 };
      product(part(left, i, rows, 0, left.columns), right, wide, false);
      narrowMatrix(memory, wide, part(to, i, rows, 0, columns));
    }
  };
}
