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

/** Rows of a strip of a symmetric matrix. */
const STRIP = 64;

/**
 * Strips of the rows of a symmetric matrix from its diagonal on: all of a block on the diagonal, and what is right of
 * it. Nothing else of the matrix is used. They are the same for the last rows and columns of a matrix.
 */
function strips(n: number): (readonly [start: number, height: number])[] {
  const first = n % STRIP;
  const whole = Array.from({ length: (n - first) / STRIP }, (_, i) => first + i * STRIP);
  const rest = whole.map((start) => [start, STRIP] as const);
  return first > 0 ? [[0, first], ...rest] : rest;
}

/** The same for a symmetric matrix, by strips. */
export function flushSymmetric(blas: Blas, update: PendingUpdate, a: Block): PendingUpdate {
  const n = a.rows;
  const { rank } = update;
  const left = last(update.left, rank, n);
  const right = last(update.right, rank, n);
  for (const [start, height] of strips(n)) {
    const factor = transposed(part(left, 0, start, rank, height));
    const rest = part(right, 0, start, rank, n - start);
    blas.gemm(-1, factor, rest, 1, part(a, start, start, height, n - start));
  }
  return { ...update, rank: 0 };
}

/** `w <- a v` for a symmetric matrix, by strips. */
export function symmetricProduct(blas: Blas, a: Block, v: Block, w: Block): void {
  const n = a.rows;
  w.data.fill(0, w.offset, w.offset + n);
  for (const [start, height] of strips(n)) {
    const [vHere, wHere] = [part(v, start, 0, height, 1), part(w, start, 0, height, 1)];
    blas.gemm(1, part(a, start, start, height, height), vHere, 1, wHere);
    const end = start + height;
    if (end === n) break;
    const [vRest, wRest] = [part(v, end, 0, n - end, 1), part(w, end, 0, n - end, 1)];
    blas.multiplyBoth(part(a, start, end, height, n - end), vRest, wHere, vHere, wRest);
  }
}
