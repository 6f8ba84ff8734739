import type { Block } from "../blas.ts";

/** A plane rotation that maps (f, g) to (r, 0): c f + s g = r, c g - s f = 0. */
export interface Rotation {
  readonly c: number;
  readonly s: number;
  readonly r: number;
}

/** Golub & Van Loan, 5.1.8. Subnormal numbers are scaled up first: a quotient of two has few digits. */
export function givens(f: number, g: number): Rotation {
  if (g === 0) return { c: 1, s: 0, r: f };
  if (f === 0) return { c: 0, s: 1, r: g };
  const scale = Math.abs(f) + Math.abs(g) < 2 ** -960 ? 2 ** 100 : 1;
  const r = Math.hypot(f * scale, g * scale);
  return { c: (f * scale) / r, s: (g * scale) / r, r: r / scale };
}

/** Row i becomes c rowᵢ + s rowⱼ, row j becomes c rowⱼ - s rowᵢ. Rows are contiguous. */
export function rotateRows(a: Block, i: number, j: number, c: number, s: number): void {
  const { data, cols } = a;
  let p = a.offset + i * a.rowStride;
  let q = a.offset + j * a.rowStride;
  for (let k = 0; k < cols; k++, p++, q++) {
    const x = data[p]!;
    const y = data[q]!;
    data[p] = c * x + s * y;
    data[q] = c * y - s * x;
  }
}

/** Changes the sign of row i, but leaves no negative zero. Rows are contiguous. */
export function negateRow(a: Block, i: number): void {
  const start = a.offset + i * a.rowStride;
  for (let k = start; k < start + a.cols; k++) a.data[k] = 0 - a.data[k]!;
}
