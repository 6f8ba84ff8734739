import { block, part, rowVector } from "../blas.ts";
import type { Blas, Block } from "../blas.ts";
import { largestMagnitude } from "../matrix.ts";
import { deflationTolerance, MAX_SWEEPS, notConverged } from "./convergence.ts";
import type { Subject } from "./convergence.ts";
import { givens, rotateRows } from "./givens.ts";
import { makeReflector, PANEL } from "./householder.ts";
import type { Reflectors } from "./householder.ts";
import {
  addRankOne,
  flushSymmetric,
  noUpdate,
  symmetricProduct,
  updateProduct,
  updateRow,
} from "./pending-update.ts";

/** Q T Qᵀ with T symmetric tridiagonal and Q the product of the reflectors. */
export interface Tridiagonal {
  readonly diagonal: Float64Array;
  readonly offDiagonal: Float64Array;
  readonly reflectors: Reflectors;
}

/**
 * Reduces a symmetric matrix to tridiagonal form; `a` holds both triangles, the lower one of which is not
 * kept up to date, and becomes the storage of the reflectors.
 *
 * Golub & Van Loan, 8.3.1, blocked as in Dongarra, Sorensen & Hammarling, Block reduction of matrices
 * to condensed forms (1989); LAPACK `dlatrd`.
 */
export function tridiagonalise(blas: Blas, a: Block): Tridiagonal {
  const n = a.rows;
  const steps = Math.max(0, n - 1);
  const diagonal = new Float64Array(n);
  const offDiagonal = new Float64Array(steps);
  const reflectors = { rows: part(a, 0, 0, steps, n), tau: new Float64Array(steps), shift: 1 };
  const product = block(blas.allocate(n), n, 1);
  let update = noUpdate(blas, n, n);

  for (let k = 0; k < n; k++) {
    const row = rowVector(a, k, k);
    updateRow(blas, update, k, row);
    diagonal[k] = row.data[row.offset]!;
    if (k === steps) break;
    const v = rowVector(a, k, k + 1);
    const { beta, tau } = makeReflector(v);
    offDiagonal[k] = beta;
    reflectors.tau[k] = tau;

    const rest = n - k - 1;
    const remaining = part(a, k + 1, k + 1, rest, rest);
    const w = part(product, 0, 0, rest, 1);
    symmetricProduct(blas, remaining, v, w);
    updateProduct(blas, update, v, w);
    completeUpdate(v, w, tau);
    update = addRankOne(addRankOne(update, v, w), w, v);
    if (update.rank === 2 * PANEL) update = flushSymmetric(blas, update, remaining);
  }
  for (let k = 0; k < steps; k++) a.data.fill(0, a.offset + k * n, a.offset + k * n + k + 1);
  return { diagonal, offDiagonal, reflectors };
}

/** From w = A v to the w of H A H = A - v wᵀ - w vᵀ. */
function completeUpdate(v: Block, w: Block, tau: number): void {
  let dot = 0;
  for (let i = 0; i < v.rows; i++) dot += v.data[v.offset + i]! * w.data[w.offset + i]!;
  const shift = 0.5 * tau * tau * dot;
  for (let i = 0; i < v.rows; i++) {
    w.data[w.offset + i] = tau * w.data[w.offset + i]! - shift * v.data[v.offset + i]!;
  }
}

/**
 * Diagonalises a small symmetric tridiagonal matrix, applying the rotations to the rows of `basis`.
 * `d` becomes the eigenvalues, in no order; `e`, as long as `d`, is destroyed.
 *
 * Implicit QL with Wilkinson's shift: Golub & Van Loan, 8.3.3-8.3.5; EISPACK `tql2`.
 */
export function implicitQl(
  d: Float64Array,
  e: Float64Array,
  basis: Block,
  subject: Subject,
  maxSweeps: number = MAX_SWEEPS,
): void {
  const n = d.length;
  e[n - 1] = 0;
  const negligible = deflationTolerance(Math.max(largestMagnitude(d), largestMagnitude(e)));
  for (let first = 0; first < n; first++) {
    for (let sweep = 0; ; sweep++) {
      let last = first;
      while (Math.abs(e[last]!) > negligible) last++;
      if (last === first) break;
      if (sweep === maxSweeps) notConverged(subject, `${maxSweeps} sweeps`);
      qlSweep(d, e, basis, first, last);
    }
  }
}

function qlSweep(
  d: Float64Array,
  e: Float64Array,
  basis: Block,
  first: number,
  last: number,
): void {
  const slope = (d[first + 1]! - d[first]!) / (2 * e[first]!);
  const root = Math.hypot(slope, 1);
  let g = d[last]! - d[first]! + e[first]! / (slope + (slope >= 0 ? root : -root));
  let s = 1;
  let c = 1;
  let correction = 0;
  for (let i = last - 1; i >= first; i--) {
    const rotation = givens(g, s * e[i]!);
    const b = c * e[i]!;
    e[i + 1] = rotation.r;
    if (rotation.r === 0) {
      // The bulge vanished: the matrix has split at i + 1, and the next sweep starts there.
      d[i + 1]! -= correction;
      e[last] = 0;
      return;
    }
    ({ c, s } = rotation);
    g = d[i + 1]! - correction;
    const t = (d[i]! - g) * s + 2 * c * b;
    correction = s * t;
    d[i + 1] = g + correction;
    g = c * t - b;
    rotateRows(basis, i + 1, i, c, s);
  }
  d[first]! -= correction;
  e[first] = g;
  e[last] = 0;
}
