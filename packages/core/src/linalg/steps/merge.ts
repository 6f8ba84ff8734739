import { block, part } from "../blas.ts";
import type { Blas, Block } from "../blas.ts";
import type { Subject } from "./convergence.ts";

/** Columns in which a row of a basis may be nonzero: those before the split, all, or those from it on. */
export type Support = "left" | "both" | "right";

/**
 * The merge step that both divide-and-conquer algorithms share: two solved halves with the joint
 * diagonal d, coupled by a rank-one term with the vector z.
 */
export interface Merge {
  /** Diagonal; deflation changes it. */
  readonly d: Float64Array;
  /** Coupling vector; deflation changes it. */
  readonly z: Float64Array;
  /** Support of each row of the basis; deflation changes it. */
  readonly support: Support[];
  /** An entry of z of at most this magnitude counts as 0. */
  readonly negligibleZ: number;
  /** An off-diagonal entry of at most this magnitude, left behind by a rotation, counts as 0. */
  readonly negligibleCoupling: number;
  /** Rotates rows i and j of the bases. */
  readonly rotate: (i: number, j: number, c: number, s: number) => void;
}

/** What becomes of the rows of a merge. */
export interface Deflation {
  /** Rows that enter the secular equation, in ascending order of their diagonal entries. */
  readonly kept: readonly number[];
  /** Rows that are final. */
  readonly deflated: readonly number[];
}

/** What all merges of one factorisation share; the arrays have at least n² entries each. */
export interface MergeContext {
  readonly blas: Blas;
  readonly subject: Subject;
  readonly differences: Float64Array;
  readonly weights: Float64Array;
  readonly rows: Float64Array;
}

/** Allocates what merges up to order `n` need. */
export function mergeContext(blas: Blas, subject: Subject, n: number): MergeContext {
  const square = (): Float64Array => blas.allocate(n * n);
  return { blas, subject, differences: square(), weights: square(), rows: square() };
}

/** Row indices in ascending order of `d`. */
export function ascending(d: Float64Array): number[] {
  return Array.from(d.keys()).toSorted((i, j) => d[i]! - d[j]!);
}

/**
 * Removes from a merge every row with a negligible entry of z, and one of each two rows with nearly
 * equal diagonal entries, by a rotation that moves all of their weight to the other. Dongarra &
 * Sorensen, A fully parallel algorithm for the symmetric eigenvalue problem (1987).
 *
 * @param order - Rows in ascending order of `d`.
 * @param pinned - How many of the first of them are kept, untouched, in any case.
 */
export function deflate(merge: Merge, order: readonly number[], pinned: number): Deflation {
  const { d, z, support } = merge;
  const kept = order.slice(0, pinned);
  const deflated: number[] = [];
  for (const j of order.slice(pinned)) {
    if (Math.abs(z[j]!) <= merge.negligibleZ) {
      deflated.push(j);
      continue;
    }
    if (kept.length > pinned) {
      const i = kept.at(-1)!;
      const length = Math.hypot(z[i]!, z[j]!);
      const [c, s] = [z[j]! / length, z[i]! / length];
      const gap = d[j]! - d[i]!;
      if (Math.abs(gap * c * s) <= merge.negligibleCoupling) {
        merge.rotate(j, i, c, s);
        [z[i], z[j]] = [0, length];
        d[i]! += gap * s * s;
        d[j]! -= gap * s * s;
        if (support[i] !== support[j]) support[i] = support[j] = "both";
        kept.pop();
        deflated.push(i);
      }
    }
    kept.push(j);
  }
  return { kept, deflated };
}

/** A basis of a merge: its rows, and the first column that rows of the right half reach. */
export interface SplitBasis {
  readonly rows: Block;
  readonly split: number;
}

/**
 * Replaces the rows of a basis by their combinations, row i with the coefficients that
 * `fillRow` gives for the kept rows, normalised; the deflated rows follow. Sorting by support lets the product skip the
 * zero quarters of the basis: Rutter, A serial implementation of Cuppen's divide and conquer algorithm
 * for the symmetric eigenvalue problem, LAPACK Working Note 69 (1994).
 */
export function combineRows(
  context: MergeContext,
  { rows, split }: SplitBasis,
  { kept, deflated }: Deflation,
  support: readonly Support[],
  fillRow: (i: number, row: Float64Array) => void,
): void {
  const { blas } = context;
  const k = kept.length;
  const n = k + deflated.length;
  const positions = (wanted: Support): number[] =>
    Array.from(kept.keys()).filter((j) => support[kept[j]!] === wanted);
  const [left, both, right] = [positions("left"), positions("both"), positions("right")];
  const grouped = [...left, ...both, ...right];

  const gathered = block(context.rows, n, rows.cols);
  for (const [to, from] of [...grouped.map((j) => kept[j]!), ...deflated].entries()) {
    const start = rows.offset + from * rows.rowStride;
    gathered.data.set(rows.data.subarray(start, start + rows.cols), to * rows.cols);
  }

  const weights = block(context.weights, k, k);
  const row = new Float64Array(k);
  for (let i = 0; i < k; i++) {
    fillRow(i, row);
    copyNormalised(row, grouped, weights.data, i * k);
  }

  const reachLeft = k - right.length;
  const reachRight = k - left.length;
  const rest = rows.cols - split;
  blas.gemm(
    1,
    part(weights, 0, 0, k, reachLeft),
    part(gathered, 0, 0, reachLeft, split),
    0,
    part(rows, 0, 0, k, split),
  );
  blas.gemm(
    1,
    part(weights, 0, left.length, k, reachRight),
    part(gathered, left.length, split, reachRight, rest),
    0,
    part(rows, 0, split, k, rest),
  );
  for (let i = k; i < n; i++) {
    const row = gathered.data.subarray(i * rows.cols, (i + 1) * rows.cols);
    rows.data.set(row, rows.offset + i * rows.rowStride);
  }
}

/** Copies the entries of a row in another order, divided by its length. */
function copyNormalised(
  row: Float64Array,
  order: readonly number[],
  to: Float64Array,
  start: number,
): void {
  let sum = 0;
  for (let j = 0; j < row.length; j++) sum += row[j]! * row[j]!;
  const norm = Math.sqrt(sum);
  for (let t = 0; t < order.length; t++) to[start + t] = row[order[t]!]! / norm;
}
