import { block, part } from "../blas.ts";
import type { Blas, Block } from "../blas.ts";
import { largestMagnitude } from "../matrix.ts";
import { implicitQr } from "./bidiagonal.ts";
import { deflationTolerance } from "./convergence.ts";
import type { Subject } from "./convergence.ts";
import { givens, negateRow, rotateRows } from "./givens.ts";
import { ascending, combineRows, deflate, mergeContext } from "./merge.ts";
import type { MergeContext, Support } from "./merge.ts";
import { solveSecular } from "./secular.ts";
import type { SecularRoots } from "./secular.ts";
import { implicitQl } from "./tridiagonal.ts";

/** Up to this order an implicit iteration is faster. */
const LEAF = 24;

/**
 * Diagonalises a symmetric tridiagonal matrix. `diagonal` becomes the eigenvalues, in no order;
 * `offDiagonal` is destroyed. Row i of the result is the vector of eigenvalue i.
 *
 * Cuppen, A divide and conquer method for the symmetric tridiagonal eigenproblem (1981), with the
 * deflation and the vectors of Gu & Eisenstat (1994); LAPACK `dstedc`.
 */
export function tridiagonalEigenvectors(
  blas: Blas,
  diagonal: Float64Array,
  offDiagonal: Float64Array,
  subject: Subject,
): Block {
  const n = diagonal.length;
  const basis = block(blas.allocate(n * n), n, n);
  const context = mergeContext(blas, subject, n > LEAF ? n : 0);

  const solve = (from: number, to: number): void => {
    const size = to - from;
    const d = diagonal.subarray(from, to);
    const rows = part(basis, from, from, size, size);
    if (size <= LEAF) {
      for (let i = from; i < to; i++) basis.data[i * n + i] = 1;
      const e = new Float64Array(size);
      e.set(offDiagonal.subarray(from, from + Math.max(0, size - 1)));
      implicitQl(d, e, rows, subject);
      return;
    }
    const split = size >> 1;
    const coupling = offDiagonal[from + split - 1]!;
    d[split - 1]! -= Math.abs(coupling);
    d[split]! -= Math.abs(coupling);
    solve(from, from + split);
    solve(from + split, to);
    mergeEigen(context, d, rows, split, coupling);
  };
  solve(0, n);
  return basis;
}

/**
 * Diagonalises diag(d) + z zᵀ in the basis of the two halves. The corner that `coupling` fills in is
 * |coupling| v vᵀ with v = (0 ... 0 1 ±1 0 ... 0), so z is v in that basis, scaled.
 */
function mergeEigen(
  context: MergeContext,
  d: Float64Array,
  rows: Block,
  split: number,
  coupling: number,
): void {
  const factor = Math.sqrt(Math.abs(coupling));
  const z = d.map((_, i) => {
    const middle = rows.offset + i * rows.rowStride + split;
    return i < split
      ? factor * rows.data[middle - 1]!
      : factor * Math.sign(coupling) * rows.data[middle]!;
  });
  const support = Array.from(d, (_, i): Support => (i < split ? "left" : "right"));
  const squaredLength = z.reduce((sum, x) => sum + x * x, 0);
  const tolerance = deflationTolerance(Math.max(largestMagnitude(d), squaredLength));
  const deflation = deflate(
    {
      d,
      z,
      support,
      negligibleZ: squaredLength === 0 ? 0 : tolerance / Math.sqrt(squaredLength),
      negligibleCoupling: tolerance,
      rotate: (i, j, c, s) => rotateRows(rows, i, j, c, s),
    },
    ascending(d),
    0,
  );

  const { kept, deflated } = deflation;
  const poles = kept.map((i) => d[i]!);
  const roots = solveSecular(
    { z: Float64Array.from(kept, (i) => z[i]!), gap: (j, o) => poles[j]! - poles[o]! },
    context.differences,
    context.subject,
  );
  const fillRow = (i: number, row: Float64Array): void => fillQuotients(roots, i, row);
  combineRows(context, { rows, split }, deflation, support, fillRow);
  const values = poles.map((_, i) => poles[roots.origin[i]!]! + roots.shift[i]!);
  d.set([...values, ...deflated.map((i) => d[i]!)]);
}

/** The vector of root `i` in terms of the poles, not normalised. */
function fillQuotients({ z, differences }: SecularRoots, i: number, row: Float64Array): void {
  const k = z.length;
  for (let j = 0; j < k; j++) row[j] = z[j]! / differences[i * k + j]!;
}

/** Singular vectors of a bidiagonal matrix as rows. */
export interface SingularVectors {
  readonly left: Block;
  readonly right: Block;
}

/**
 * Diagonalises an upper bidiagonal matrix. `diagonal` becomes the singular values, in no order;
 * `superdiagonal` is destroyed.
 *
 * Gu & Eisenstat, A divide-and-conquer algorithm for the bidiagonal SVD, SIAM J. Matrix Anal. Appl. 16
 * (1995); LAPACK `dlasd0`. The matrix is split by taking out a row; the part above that row has a column
 * more than rows, hence a null vector, which is the last row of its right basis.
 */
export function bidiagonalSingularVectors(
  blas: Blas,
  diagonal: Float64Array,
  superdiagonal: Float64Array,
  subject: Subject,
): SingularVectors {
  const n = diagonal.length;
  const left = block(blas.allocate(n * n), n, n);
  const right = block(blas.allocate(n * n), n, n);
  const context = mergeContext(blas, subject, n > LEAF ? n : 0);

  const solve = (from: number, to: number, extraColumns: 0 | 1): void => {
    const size = to - from;
    const width = size + extraColumns;
    const d = diagonal.subarray(from, to);
    const vectors = {
      left: part(left, from, from, size, size),
      right: part(right, from, from, width, width),
    };
    if (size <= LEAF) {
      for (let i = from; i < from + size; i++) left.data[i * n + i] = 1;
      for (let i = from; i < from + width; i++) right.data[i * n + i] = 1;
      const e = new Float64Array(size);
      e.set(superdiagonal.subarray(from, from + Math.max(0, width - 1)));
      implicitQr({ d, e, ...vectors }, subject);
      return;
    }
    const middle = size >> 1;
    const row = [d[middle]!, superdiagonal[from + middle]!] as const;
    solve(from, from + middle, 1);
    solve(from + middle + 1, to, extraColumns);
    left.data[(from + middle) * (n + 1)] = 1;
    mergeSingular(context, d, vectors, middle, row);
  };
  solve(0, n, 0);
  return { left, right };
}

/**
 * Diagonalises the matrix that is diag(d) but for row `middle`, which is z: the row that was taken out,
 * `row`, in the basis of the two halves.
 */
function mergeSingular(
  context: MergeContext,
  d: Float64Array,
  { left, right }: SingularVectors,
  middle: number,
  row: readonly [number, number],
): void {
  const n = d.length;
  const z = new Float64Array(n + 1);
  for (let i = 0; i < right.rows; i++) {
    const entry = right.offset + i * right.rowStride + middle;
    z[i] = i <= middle ? row[0] * right.data[entry]! : row[1] * right.data[entry + 1]!;
  }
  const support = Array.from(d, (_, i): Support => {
    if (i === middle) return "both";
    return i < middle ? "left" : "right";
  });
  // Where the right half has a null vector too, a rotation leaves the weight of both to one.
  const { c, s, r: head } = givens(z[middle]!, z[n]!);
  if (right.rows > n) rotateRows(right, middle, n, c, s);

  d[middle] = 0;
  const largestInRow = Math.max(Math.abs(row[0]), Math.abs(row[1]));
  const tolerance = deflationTolerance(Math.max(largestMagnitude(d), largestInRow));
  z[middle] = Math.abs(head) > tolerance ? head : tolerance;
  const deflation = deflate(
    {
      d,
      z,
      support,
      negligibleZ: tolerance,
      negligibleCoupling: tolerance,
      rotate: (i, j, c, s) => {
        rotateRows(left, i, j, c, s);
        rotateRows(right, i, j, c, s);
      },
    },
    [middle, ...ascending(d).filter((i) => i !== middle)],
    1,
  );

  const { kept, deflated } = deflation;
  const k = kept.length;
  if (k === 1) {
    d[middle] = Math.abs(head);
    if (head < 0) negateRow(right, middle);
    return;
  }
  const poles = kept.map((i) => d[i]!);
  poles[1] = Math.max(poles[1]!, tolerance);
  const roots = solveSecular(
    {
      z: Float64Array.from(kept, (i) => z[i]!),
      gap: (j, o) => (poles[j]! - poles[o]!) * (poles[j]! + poles[o]!),
    },
    context.differences,
    context.subject,
  );
  const onRight = (i: number, row: Float64Array): void => fillQuotients(roots, i, row);
  const onLeft = (i: number, row: Float64Array): void => {
    fillQuotients(roots, i, row);
    row[0] = -1;
    for (let j = 1; j < k; j++) row[j]! *= poles[j]!;
  };
  const split = middle + 1;
  const rightRows = part(right, 0, 0, n, right.cols);
  combineRows(context, { rows: rightRows, split }, deflation, support, onRight);
  combineRows(context, { rows: left, split }, deflation, support, onLeft);
  const values = poles.map((_, i) => {
    const pole = poles[roots.origin[i]!]!;
    return pole + roots.shift[i]! / (pole + Math.sqrt(pole * pole + roots.shift[i]!));
  });
  d.set([...values, ...deflated.map((i) => d[i]!)]);
}
