import { block, part, rowVector, transposed } from "../blas.ts";
import type { Blas, Block } from "../blas.ts";
import { largestMagnitude } from "../matrix.ts";
import { deflationTolerance, MAX_SWEEPS, notConverged } from "./convergence.ts";
import type { Subject } from "./convergence.ts";
import { givens, negateRow, rotateRows } from "./givens.ts";
import { makeReflector, PANEL } from "./householder.ts";
import type { Reflectors } from "./householder.ts";
import {
  addRankOne,
  flipped,
  flush,
  noUpdate,
  updateProduct,
  updateRow,
} from "./pending-update.ts";

/** Q B Pᵀ with B upper bidiagonal, Q and P the products of the left and the right reflectors. */
export interface Bidiagonal {
  readonly diagonal: Float64Array;
  readonly superdiagonal: Float64Array;
  readonly left: Reflectors;
  readonly right: Reflectors;
}

/**
 * Reduces a matrix with at least as many rows as columns to upper bidiagonal form; `a` becomes the
 * storage of the right reflectors.
 *
 * Golub & Van Loan, 5.4.8, blocked as in Dongarra, Sorensen & Hammarling, Block reduction of matrices
 * to condensed forms (1989); LAPACK `dlabrd`.
 */
export function bidiagonalise(blas: Blas, a: Block): Bidiagonal {
  const { rows: m, cols: n } = a;
  const steps = Math.max(0, n - 1);
  const diagonal = new Float64Array(n);
  const superdiagonal = new Float64Array(steps);
  const left = { rows: block(blas.allocate(n * m), n, m), tau: new Float64Array(n), shift: 0 };
  const right = { rows: part(a, 0, 0, steps, n), tau: new Float64Array(steps), shift: 1 };
  const x = block(blas.allocate(m), m, 1);
  const y = block(blas.allocate(n), n, 1);
  let update = noUpdate(blas, m, n);

  for (let k = 0; k < n; k++) {
    const v = rowVector(left.rows, k, k);
    for (let i = k; i < m; i++) left.rows.data[k * m + i] = a.data[a.offset + i * n + k]!;
    updateRow(blas, flipped(update), k, v);
    const { beta, tau } = makeReflector(v);
    diagonal[k] = beta;
    left.tau[k] = tau;
    if (k === steps) break;

    const rest = n - k - 1;
    const below = m - k - 1;
    const yk = part(y, 0, 0, rest, 1);
    blas.gemm(1, transposed(part(a, k, k + 1, m - k, rest)), v, 0, yk);
    updateProduct(blas, flipped(update), v, yk);
    scaleVector(tau, yk);
    update = addRankOne(update, v, yk);

    const u = rowVector(a, k, k + 1);
    updateRow(blas, update, k, u);
    const reflector = makeReflector(u);
    superdiagonal[k] = reflector.beta;
    right.tau[k] = reflector.tau;
    const xk = part(x, 0, 0, below, 1);
    blas.gemm(1, part(a, k + 1, k + 1, below, rest), u, 0, xk);
    updateProduct(blas, update, u, xk);
    scaleVector(reflector.tau, xk);
    update = addRankOne(update, xk, u);
    if (update.rank === 2 * PANEL) update = flush(blas, update, part(a, k + 1, k + 1, below, rest));
  }
  for (let k = 0; k < steps; k++) a.data.fill(0, a.offset + k * n, a.offset + k * n + k + 1);
  return { diagonal, superdiagonal, left, right };
}

function scaleVector(factor: number, x: Block): void {
  for (let i = x.offset; i < x.offset + x.rows; i++) x.data[i]! *= factor;
}

/** A small upper bidiagonal matrix, and the bases, rows as vectors, that take part in its rotations. */
export interface BidiagonalProblem {
  readonly d: Float64Array;
  /** As long as `d`. When `right` has a row more than `left`, the last entry is in a column of its own. */
  readonly e: Float64Array;
  readonly left: Block;
  readonly right: Block;
}

/**
 * Diagonalises a small upper bidiagonal matrix: `d` becomes the singular values, in no order, `e` is
 * destroyed. With one column more than rows, the last row of `right` becomes the null vector.
 *
 * Implicit QR: Golub & Van Loan, 8.6.3; with the zero shift, for singular matrices, and the choice of
 * direction of Demmel & Kahan, Accurate singular values of bidiagonal matrices, LAPACK Working Note 3
 * (1990).
 */
export function implicitQr(
  problem: BidiagonalProblem,
  subject: Subject,
  maxSweeps: number = MAX_SWEEPS,
): void {
  const { d, e, left, right } = problem;
  if (right.rows > left.rows) removeLastColumn(problem);
  const negligible = deflationTolerance(Math.max(largestMagnitude(d), largestMagnitude(e)));
  let span: Span = { first: 0, last: -1, downwards: true };
  let sweeps = 0;
  for (let last = d.length - 1; last > 0;) {
    let first = last;
    while (first > 0 && Math.abs(e[first - 1]!) > negligible) first--;
    if (first === last) {
      last--;
      continue;
    }
    if (first !== span.first || last !== span.last) {
      span = nextSpan(d, span, first, last);
      sweeps = 0;
    }
    if (sweeps++ === maxSweeps) notConverged(subject, `${maxSweeps} sweeps`);
    const chain = directed(problem, span);
    if (smallestEstimate(d, e, first, last) <= negligible) zeroShiftSweep(chain);
    else shiftedSweep(chain);
  }
  for (let i = 0; i < d.length; i++) {
    if (d[i]! >= 0) continue;
    d[i] = -d[i]!;
    negateRow(right, i);
  }
}

/** Rotates the last entry of e, which stands in a column of its own, up and out of the matrix. */
function removeLastColumn({ d, e, right }: BidiagonalProblem): void {
  const n = d.length;
  let extra = e[n - 1]!;
  e[n - 1] = 0;
  for (let i = n - 1; i >= 0 && extra !== 0; i--) {
    const { c, s, r } = givens(d[i]!, extra);
    d[i] = r;
    rotateRows(right, i, n, c, s);
    if (i > 0) {
      extra = -s * e[i - 1]!;
      e[i - 1]! *= c;
    }
  }
}

/** A lower estimate of the smallest singular value of a block (Demmel & Kahan). */
function smallestEstimate(d: Float64Array, e: Float64Array, first: number, last: number): number {
  let mu = Math.abs(d[first]!);
  let smallest = mu;
  for (let i = first; i < last && smallest > 0; i++) {
    mu = Math.abs(d[i + 1]!) * (mu / (mu + Math.abs(e[i]!)));
    smallest = Math.min(smallest, mu);
  }
  return smallest;
}

/** An unreduced block, and the direction of its sweeps. */
interface Span {
  readonly first: number;
  readonly last: number;
  readonly downwards: boolean;
}

/**
 * A sweep drives small values to its end, so it should run towards the smaller end of the diagonal. The
 * parts of a block keep its direction: turning around would undo the work.
 */
function nextSpan(d: Float64Array, previous: Span, first: number, last: number): Span {
  const overlaps = first <= previous.last && last >= previous.first;
  const downwards = overlaps ? previous.downwards : Math.abs(d[first]!) >= Math.abs(d[last]!);
  return { first, last, downwards };
}

/** An unreduced block, read downwards or, transposed, upwards. */
interface Chain extends BidiagonalProblem {
  readonly length: number;
  /** Index in `d`, and row of the bases, of the i-th diagonal entry. */
  readonly at: (i: number) => number;
  /** Index in `e` of the entry between the i-th diagonal entry and the next. */
  readonly after: (i: number) => number;
}

function directed(problem: BidiagonalProblem, { first, last, downwards }: Span): Chain {
  const { d, e, left, right } = problem;
  const length = last - first + 1;
  if (downwards) {
    const at = (i: number): number => first + i;
    return { ...problem, length, at, after: at };
  }
  const at = (i: number): number => last - i;
  return { d, e, left: right, right: left, length, at, after: (i) => last - 1 - i };
}

function zeroShiftSweep({ d, e, left, right, length, at, after }: Chain): void {
  let [c, cLeft, sLeft] = [1, 1, 0];
  for (let i = 0; i + 1 < length; i++) {
    const onRight = givens(d[at(i)]! * c, e[after(i)]!);
    if (i > 0) e[after(i - 1)] = sLeft * onRight.r;
    const onLeft = givens(cLeft * onRight.r, d[at(i + 1)]! * onRight.s);
    d[at(i)] = onLeft.r;
    rotateRows(right, at(i), at(i + 1), onRight.c, onRight.s);
    rotateRows(left, at(i), at(i + 1), onLeft.c, onLeft.s);
    c = onRight.c;
    cLeft = onLeft.c;
    sLeft = onLeft.s;
  }
  const end = d[at(length - 1)]! * c;
  d[at(length - 1)] = end * cLeft;
  e[after(length - 2)] = end * sLeft;
}

function shiftedSweep({ d, e, left, right, length, at, after }: Chain): void {
  const final = after(length - 2);
  const shift = smallerSingularValue(d[at(length - 2)]!, e[final]!, d[at(length - 1)]!);
  const head = d[at(0)]!;
  let f = (Math.abs(head) - shift) * (Math.sign(head) + shift / head);
  let g = e[after(0)]!;
  for (let i = 0; i + 1 < length; i++) {
    const [here, next] = [at(i), at(i + 1)];
    const between = after(i);
    const onRight = givens(f, g);
    if (i > 0) e[after(i - 1)] = onRight.r;
    f = onRight.c * d[here]! + onRight.s * e[between]!;
    e[between] = onRight.c * e[between]! - onRight.s * d[here]!;
    g = onRight.s * d[next]!;
    d[next]! *= onRight.c;
    const onLeft = givens(f, g);
    d[here] = onLeft.r;
    f = onLeft.c * e[between] + onLeft.s * d[next]!;
    d[next] = onLeft.c * d[next]! - onLeft.s * e[between];
    if (i + 2 < length) {
      g = onLeft.s * e[after(i + 1)]!;
      e[after(i + 1)]! *= onLeft.c;
    }
    rotateRows(right, here, next, onRight.c, onRight.s);
    rotateRows(left, here, next, onLeft.c, onLeft.s);
  }
  e[final] = f;
}

/** Of [[f, g], [0, h]]: sum and difference of the singular values are the two lengths. */
function smallerSingularValue(f: number, g: number, h: number): number {
  const [x, z] = [Math.abs(f), Math.abs(h)];
  const larger = (Math.hypot(x + z, g) + Math.hypot(x - z, g)) / 2;
  return larger === 0 ? 0 : Math.min(x, z) * (Math.max(x, z) / larger);
}
