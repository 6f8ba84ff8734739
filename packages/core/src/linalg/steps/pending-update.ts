import { block, part, transposed } from "../blas.ts";
import type { Blas, Block } from "../blas.ts";
import { PANEL } from "./householder.ts";

/**
 * What a panel of a reduction has still to subtract from its matrix: LᵀR, of a rank that grows by two
 * a step. Vectors are columns that hold the last entries of a row or a column of the matrix, from the
 * current step on.
 */
export interface PendingUpdate {
  /** Rows of L, `[2 PANEL, rows of the matrix]`. */
  readonly left: Block;
  /** Rows of R, `[2 PANEL, columns of the matrix]`. */
  readonly right: Block;
  /** How many rows of L and R are in use. */
  readonly rank: number;
}

/** An update of rank 0 of a matrix of this size. */
export function noUpdate(blas: Blas, rows: number, cols: number): PendingUpdate {
  const rank = 2 * PANEL;
  return {
    left: block(blas.allocate(rank * rows), rank, rows),
    right: block(blas.allocate(rank * cols), rank, cols),
    rank: 0,
  };
}

/** The update of the transposed matrix. */
export function flipped({ left, right, rank }: PendingUpdate): PendingUpdate {
  return { left: right, right: left, rank };
}

/** The last entries of the rows in use. */
function last(a: Block, rank: number, length: number): Block {
  return part(a, 0, a.cols - length, rank, length);
}

/** Brings the end of row `k` of the matrix up to date. */
export function updateRow(
  blas: Blas,
  { left, right, rank }: PendingUpdate,
  k: number,
  row: Block,
): void {
  blas.gemm(-1, transposed(last(right, rank, row.rows)), part(left, 0, k, rank, 1), 1, row);
}

/** Corrects `product`, the old matrix times `v`. */
export function updateProduct(
  blas: Blas,
  { left, right, rank }: PendingUpdate,
  v: Block,
  product: Block,
): void {
  const coefficients = block(blas.allocate(rank), rank, 1);
  blas.gemm(1, last(right, rank, v.rows), v, 0, coefficients);
  blas.gemm(-1, transposed(last(left, rank, product.rows)), coefficients, 1, product);
}

/** Adds the columns `l` and `r` to L and R. */
export function addRankOne(
  { left, right, rank }: PendingUpdate,
  l: Block,
  r: Block,
): PendingUpdate {
  copyToRow(l, left, rank);
  copyToRow(r, right, rank);
  return { left, right, rank: rank + 1 };
}

function copyToRow(from: Block, to: Block, row: number): void {
  const values = from.data.subarray(from.offset, from.offset + from.rows);
  to.data.set(values, to.offset + row * to.rowStride + to.cols - from.rows);
}

/** Carries the update out on `a`, the last rows and columns of the matrix. */
export function flush(blas: Blas, { left, right, rank }: PendingUpdate, a: Block): PendingUpdate {
  blas.gemm(-1, transposed(last(left, rank, a.rows)), last(right, rank, a.cols), 1, a);
  return { left, right, rank: 0 };
}

const STRIP = 64;

/** The same for a symmetric matrix: the upper triangle by strips of rows, then its mirror image. */
export function flushSymmetric(blas: Blas, update: PendingUpdate, a: Block): PendingUpdate {
  const n = a.rows;
  const { rank } = update;
  const left = last(update.left, rank, n);
  const right = last(update.right, rank, n);
  for (let i = 0; i < n; i += STRIP) {
    const height = Math.min(STRIP, n - i);
    const factor = transposed(part(left, 0, i, rank, height));
    blas.gemm(-1, factor, part(right, 0, i, rank, n - i), 1, part(a, i, i, height, n - i));
  }
  for (let i = 0; i < n; i += STRIP) mirrorStrip(a, i, Math.min(STRIP, n - i));
  return { ...update, rank: 0 };
}

/** Copies what stands right of the diagonal in some rows to the same columns below it. */
function mirrorStrip(a: Block, start: number, height: number): void {
  const { data, offset, rowStride } = a;
  for (let j = start; j < a.cols; j++) {
    const to = offset + j * rowStride + start;
    let from = offset + start * rowStride + j;
    const count = Math.min(height, j - start);
    for (let i = 0; i < count; i++, from += rowStride) data[to + i] = data[from]!;
  }
}
