import { isHalf } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import { asFloatMatrix, narrowMatrix, part, type Matrix, type StoredMatrix } from "./matrix.ts";
import { BLOCK_COLUMNS, BLOCK_DEPTH, takePanels, type Panels } from "./packed.ts";
import { addProduct } from "./product.ts";

/** Scratch of matrix products: packed panels, and f32 copies of what is stored in 16 bits. */
export interface Workspace {
  /** For the product in f32. */
  readonly panels: Panels;
  /** All of the left matrix. */
  readonly left: number;
  /** A block of the right matrix. */
  readonly right: number;
  /** A block of columns of the product. */
  readonly out: number;
}

/** The size and dtype of a matrix. */
export type Unplaced = Pick<StoredMatrix, "dtype" | "rows" | "columns">;

/**
 * Takes scratch for {@link multiply}.
 *
 * @param memory - Where.
 * @param a - The largest left matrix.
 * @param b - The largest right matrix.
 * @param out - The largest product.
 */
export function takeWorkspace(memory: Memory, a: Unplaced, b: Unplaced, out: Unplaced): Workspace {
  const columns = Math.min(b.columns, BLOCK_COLUMNS);
  const depth = Math.min(b.rows, BLOCK_DEPTH);
  return {
    panels: takePanels(memory, a.rows, a.columns, b.columns),
    left: memory.scratch(isHalf(a.dtype) ? a.rows * a.columns : 0),
    right: memory.scratch(isHalf(b.dtype) ? depth * columns : 0),
    out: memory.scratch(isHalf(out.dtype) ? out.rows * columns : 0),
  };
}

/**
 * `out = a · b` for floats of any dtypes. A right matrix of 16-bit floats is widened in blocks.
 *
 * @param memory - Where everything lies.
 * @param workspace - Scratch for matrices of at least these sizes.
 * @param a - `[m, k]`.
 * @param b - `[k, n]`.
 * @param out - `[m, n]`, dense, apart from `a` and `b`.
 */
export function multiply(
  memory: Memory,
  { panels, left, right, out: outScratch }: Workspace,
  a: StoredMatrix,
  b: StoredMatrix,
  out: StoredMatrix,
): void {
  const { f32 } = memory;
  const wide = asFloatMatrix(memory, a, left);
  const [m, k, n] = [a.rows, a.columns, b.columns];
  const outIsHalf = isHalf(out.dtype);
  const depth = isHalf(b.dtype) ? BLOCK_DEPTH : k;
  const columns = outIsHalf || isHalf(b.dtype) ? BLOCK_COLUMNS : n;
  if (!outIsHalf) f32.fill(0, out.at, out.at + m * n);
  for (let j = 0; j < n; j += columns) {
    const width = Math.min(columns, n - j);
    const target = part(out, 0, m, j, width);
    const sum: Matrix = outIsHalf
      ? { at: outScratch, rows: m, columns: width, rowStep: width, columnStep: 1 }
      : target;
    if (outIsHalf) f32.fill(0, sum.at, sum.at + m * width);
    for (let p = 0; p < k; p += depth) {
      const height = Math.min(depth, k - p);
      const block = asFloatMatrix(memory, part(b, p, height, j, width), right);
      addProduct(f32, panels, part(wide, 0, m, p, height), block, sum);
    }
    narrowMatrix(memory, sum, target);
  }
}
