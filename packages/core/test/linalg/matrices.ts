import { fc } from "@fast-check/vitest";
import { fromRows, matrix, multiply, qr, transpose } from "@transmla/core/linalg";
import type { Matrix } from "@transmla/core/linalg";

/** Uniform numbers in [0, 1) from a seed (mulberry32). */
export function generator(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function fill(rows: number, cols: number, entry: (i: number, j: number) => number): Matrix {
  const data = Float64Array.from({ length: rows * cols }, (_, index) =>
    entry(Math.floor(index / cols), index % cols),
  );
  return matrix(rows, cols, data);
}

export function random(rows: number, cols: number, seed: number): Matrix {
  const next = generator(seed);
  return fill(rows, cols, () => 2 * next() - 1);
}

function randomOrthogonal(n: number, seed: number): Matrix {
  return qr(random(n, n, seed)).q;
}

export function diagonal(values: ArrayLike<number>): Matrix {
  const n = values.length;
  return fill(n, n, (i, j) => (i === j ? values[i]! : 0));
}

export function symmetrised(a: Matrix): Matrix {
  return fill(a.rows, a.cols, (i, j) => (at(a, i, j) + at(a, j, i)) / 2);
}

/** Q diag(values) Qᵀ with a random Q, exactly symmetric. */
export function withSpectrum(values: ArrayLike<number>, seed: number): Matrix {
  const q = randomOrthogonal(values.length, seed);
  return symmetrised(multiply(multiply(q, diagonal(values)), q, { transposeB: true }));
}

/** `rows` x `cols` with the given singular values. */
export function withSingularValues(
  rows: number,
  cols: number,
  values: ArrayLike<number>,
  seed: number,
): Matrix {
  const u = randomOrthogonal(rows, seed);
  const v = randomOrthogonal(cols, seed + 1);
  const s = fill(rows, cols, (i, j) => (i === j ? values[i]! : 0));
  return multiply(multiply(u, s), v, { transposeB: true });
}

export function scaledBy(factor: number, a: Matrix): Matrix {
  return matrix(
    a.rows,
    a.cols,
    a.data.map((x) => factor * x),
  );
}

export function at(a: Matrix, i: number, j: number): number {
  return a.data[i * a.cols + j]!;
}

export function largest(a: Matrix): number {
  return a.data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
}

/** Largest difference of two entries; NaN when there is one. */
export function distance(a: Matrix, b: Matrix): number {
  if (a.rows !== b.rows || a.cols !== b.cols) return Number.NaN;
  return a.data.reduce((most, x, i) => Math.max(most, Math.abs(x - b.data[i]!)), 0);
}

/** How far the columns are from orthonormal. */
export function orthogonalityDefect(a: Matrix): number {
  const gram = multiply(a, a, { transposeA: true });
  return distance(gram, diagonal(new Float64Array(a.cols).fill(1)));
}

export function isDescending(values: Float64Array): boolean {
  return values.every((x, i) => i === 0 || values[i - 1]! >= x);
}

/** Whether the largest entry of each column is positive; the tie rule leaves a little room. */
export function hasNormalisedSigns(a: Matrix): boolean {
  const columns = transpose(a);
  return Array.from({ length: a.cols }, (_, j) =>
    columns.data.subarray(j * a.rows, (j + 1) * a.rows),
  ).every((column) => Math.max(...column) >= (1 - 1e-8) * -Math.min(...column));
}

/** Sizes around the panel widths and the leaf of divide and conquer, and small ones. */
export const sizes: fc.Arbitrary<number> = fc.oneof(
  { weight: 3, arbitrary: fc.integer({ min: 0, max: 12 }) },
  { weight: 1, arbitrary: fc.constantFrom(23, 24, 25, 31, 32, 33, 49, 50, 64, 65) },
);

export const seeds: fc.Arbitrary<number> = fc.integer();

/** The upper bidiagonal Kahan matrix: an almost singular triangle without a small diagonal entry. */
export function kahan(n: number, angle = 1.2): Matrix {
  const [s, c] = [Math.sin(angle), Math.cos(angle)];
  return fill(n, n, (i, j) => {
    if (j < i) return 0;
    return s ** i * (i === j ? 1 : -c);
  });
}

export function hilbert(n: number): Matrix {
  return fill(n, n, (i, j) => 1 / (i + j + 1));
}

/** A row of ones over epsilon times the identity: forming AᵀA loses epsilon². */
export function lauchli(n: number, epsilon: number): Matrix {
  return fill(n + 1, n, (i, j) => {
    if (i === 0) return 1;
    return i === j + 1 ? epsilon : 0;
  });
}

export function grcar(n: number): Matrix {
  return fill(n, n, (i, j) => {
    if (j === i - 1) return -1;
    return j >= i && j <= i + 3 ? 1 : 0;
  });
}

/** Wilkinson's W(2m + 1)+: pairs of eigenvalues that agree to many digits. */
export function wilkinson(m: number): Matrix {
  return fill(2 * m + 1, 2 * m + 1, (i, j) => {
    if (i === j) return Math.abs(i - m);
    return Math.abs(i - j) === 1 ? 1 : 0;
  });
}

/** JuliaLinearAlgebra/GenericLinearAlgebra.jl #81: the implicit QR iteration did not end. */
export const genericLinearAlgebra81: readonly Matrix[] = [
  fromRows([
    [1, 0, 0, 0],
    [0, 2, 1, 0],
    [0, 1, 2, 0],
    [0, 0, 0, -1],
  ]),
  fromRows([
    [0.4, 0, 0, 0, 0, 0, 0, 0],
    [0, 0.8, 0, 0, 0, 0, 1, 0],
    [0, 0, -0.3, 0, 0, 0, 0, 0],
    [0, 0, 0, -0.4, 0, 0, 0, 0],
    [0, 0, 0, 0, 0.4, 0, 0, 0],
    [0, 0, 0, 0, 0, -0.3, 0, 0],
    [0, 1, 0, 0, 0, 0, 0.8, 0],
    [0, 0, 0, 0, 0, 0, 0, -0.4],
  ]),
];

/** sloisel/numeric #75 and #86: NaN for rank-deficient input. */
export const numeric75: readonly Matrix[] = [
  fromRows([
    [1.2314470096270005, -8.927990819795772],
    [0.0710192233504547, -0.5148893692907976],
  ]),
  fromRows([
    [1, 2],
    [2, 4],
  ]),
  fromRows(
    [308.2985565973347, 306.8843430349616, 306.8843430349616, 306.17723625377505].map((x) => [
      x,
      x,
      x,
      x,
    ]),
  ),
];
