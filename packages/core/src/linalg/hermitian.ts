import { fail, ShapeError } from "../errors.ts";
import { plainBlas } from "./blas.ts";
import type { Blas, LinalgOptions } from "./blas.ts";
import { matrix, requireFinite, requireSquare, scaleToOne, size, window } from "./matrix.ts";
import type { Matrix } from "./matrix.ts";
import { tridiagonalEigenvectors } from "./steps/divide-and-conquer.ts";
import { SMALLEST_SQUARE } from "./steps/householder.ts";
import { columnsFromRows, descending, dominantIndex } from "./steps/ordering.ts";

/** `a = vectors diag(values) vectorsᴴ`. */
export interface EighHermitian {
  /** Eigenvalues, which are real, in descending order. */
  readonly values: Float64Array;
  /** Column i is the unit eigenvector of value i. */
  readonly vectors: {
    /** Real parts. */
    readonly re: Matrix;
    /** Imaginary parts. */
    readonly im: Matrix;
  };
}

/**
 * Computes all eigenvalues and orthonormal eigenvectors of a complex Hermitian matrix: reduction to a
 * real tridiagonal matrix, from where it goes on as {@link eigh}. Repeated eigenvalues need no care, as
 * they would with the real matrix of twice the order. The entry of largest magnitude of each vector is
 * real and positive; of several within a relative 1e-9, the first. The reduction is not blocked: meant
 * for orders up to a few hundred.
 *
 * @param re - Real part, square; only its lower triangle is read. It is not changed.
 * @param im - Imaginary part; only the entries below the diagonal are read. It is not changed.
 * @param options - The kernels.
 * @throws ShapeError when the parts are not square or differ in size.
 * @throws ArgumentError when an entry is NaN or infinite.
 * @throws ConvergenceError when an iteration reaches its cap.
 *
 * @example
 * ```ts
 * import { eighHermitian, fromRows } from "@transmla/core/linalg";
 * const { values } = eighHermitian(fromRows([[2, 0], [0, 2]]), fromRows([[0, -1], [1, 0]]));
 * console.log([...values].map(Math.round)); // => [3, 1]
 * ```
 */
export function eighHermitian(re: Matrix, im: Matrix, options: LinalgOptions = {}): EighHermitian {
  requireSquare("eighHermitian", re);
  if (im.rows !== re.rows || im.cols !== re.cols) {
    const sizes = [size(re.rows, re.cols), size(im.rows, im.cols)];
    fail(ShapeError, "eighHermitian", "sizes of real and imaginary part differ", ...sizes);
  }
  requireFinite("eighHermitian", re, im);
  const blas = options.blas ?? plainBlas;
  return blas.withStorage(4 * re.rows ** 2 + 4096, () => decompose(blas, re, im));
}

function decompose(blas: Blas, re: Matrix, im: Matrix): EighHermitian {
  const n = re.rows;
  const a = hermitianCopy(re, im);
  const factor = scaleToOne(a.re.data, a.im.data);
  const reduced = tridiagonalise(a);
  const { diagonal, offDiagonal } = reduced;
  const subject = { operation: "eighHermitian", shape: size(n, n) };
  const real = tridiagonalEigenvectors(blas, diagonal, offDiagonal, subject);
  const rows = { re: matrix(n, n), im: matrix(n, n) };
  for (let i = 0; i < n; i++) {
    const row = rowOf(rows, i, 0);
    for (let j = 0; j < n; j++) {
      row.re[j] = reduced.phases.re[j]! * real.data[i * n + j]!;
      row.im[j] = reduced.phases.im[j]! * real.data[i * n + j]!;
    }
    for (let k = n - 2; k >= 0; k--) {
      reflect(rowOf(a, k, k + 1), reduced.tau[k]!, rowOf(rows, i, k + 1));
    }
    normalisePhase(row);
  }
  const order = descending(diagonal);
  const signs = order.map(() => 1);
  return {
    values: Float64Array.from(order, (i) => diagonal[i]! / factor),
    vectors: {
      re: columnsFromRows(window(rows.re), order, signs),
      im: columnsFromRows(window(rows.im), order, signs),
    },
  };
}

interface ComplexMatrix {
  readonly re: Matrix;
  readonly im: Matrix;
}

interface ComplexVector {
  readonly re: Float64Array;
  readonly im: Float64Array;
}

/** A view of row `i` from column `from` on. */
function rowOf({ re, im }: ComplexMatrix, i: number, from: number): ComplexVector {
  const [start, end] = [i * re.cols + from, (i + 1) * re.cols];
  return { re: re.data.subarray(start, end), im: im.data.subarray(start, end) };
}

function zeros(n: number): ComplexVector {
  return { re: new Float64Array(n), im: new Float64Array(n) };
}

/** xᴴ y. */
function dot(x: ComplexVector, y: ComplexVector): { readonly re: number; readonly im: number } {
  let re = 0;
  let im = 0;
  for (let i = 0; i < x.re.length; i++) {
    re += x.re[i]! * y.re[i]! + x.im[i]! * y.im[i]!;
    im += x.re[i]! * y.im[i]! - x.im[i]! * y.re[i]!;
  }
  return { re, im };
}

/** `y <- y + (re + i im) x`. */
function addMultiple(re: number, im: number, x: ComplexVector, y: ComplexVector): void {
  for (let i = 0; i < x.re.length; i++) {
    y.re[i]! += re * x.re[i]! - im * x.im[i]!;
    y.im[i]! += re * x.im[i]! + im * x.re[i]!;
  }
}

/** `x <- (I - tau v vᴴ) x`. */
function reflect(v: ComplexVector, tau: number, x: ComplexVector): void {
  const product = dot(v, x);
  addMultiple(-tau * product.re, -tau * product.im, v, x);
}

/** Both triangles from the lower one. */
function hermitianCopy(re: Matrix, im: Matrix): ComplexMatrix {
  const n = re.rows;
  const copy = { re: matrix(n, n), im: matrix(n, n) };
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      const [here, mirror] = [i * n + j, j * n + i];
      copy.re.data[here] = copy.re.data[mirror] = re.data[here]!;
      if (i === j) continue;
      copy.im.data[here] = im.data[here]!;
      copy.im.data[mirror] = -copy.im.data[here];
    }
  }
  return copy;
}

/**
 * Reduces `a` to P T Pᴴ, T real symmetric tridiagonal and P = diag(phases), between the reflectors
 * I - tau v vᴴ, whose vectors replace the rows of `a` right of the diagonal. As LAPACK `zhetd2`, but
 * each reflector maps its column to a complex multiple of e₁, which keeps tau real.
 */
function tridiagonalise(a: ComplexMatrix): {
  readonly diagonal: Float64Array;
  readonly offDiagonal: Float64Array;
  readonly phases: ComplexVector;
  readonly tau: Float64Array;
} {
  const n = a.re.rows;
  const diagonal = new Float64Array(n);
  const offDiagonal = new Float64Array(Math.max(0, n - 1));
  const tau = new Float64Array(Math.max(0, n - 1));
  const phases = zeros(n);
  phases.re[0] = 1;
  for (let k = 0; k < n; k++) {
    diagonal[k] = a.re.data[k * n + k]!;
    if (k === n - 1) break;
    // The column below the diagonal is the conjugate of the row right of it.
    const v = rowOf(a, k, k + 1);
    for (let i = 0; i < v.im.length; i++) v.im[i] = -v.im[i]!;
    const beta = makeReflector(v);
    offDiagonal[k] = beta.length;
    tau[k] = beta.tau;
    phases.re[k + 1] = phases.re[k]! * beta.re - phases.im[k]! * beta.im;
    phases.im[k + 1] = phases.re[k]! * beta.im + phases.im[k]! * beta.re;
    if (beta.tau !== 0) updateTrailing(a, k + 1, v, beta.tau);
  }
  return { diagonal, offDiagonal, phases, tau };
}

/** Overwrites x with v such that (I - tau v vᴴ) x = length (re + i im) e₁, a factor of modulus 1. */
function makeReflector(x: ComplexVector): {
  readonly tau: number;
  readonly length: number;
  readonly re: number;
  readonly im: number;
} {
  const head = Math.hypot(x.re[0]!, x.im[0]!);
  const [re, im] = head === 0 ? [1, 0] : [x.re[0]! / head, x.im[0]! / head];
  const rest = { re: x.re.subarray(1), im: x.im.subarray(1) };
  const tail = dot(rest, rest).re;
  if (tail < SMALLEST_SQUARE) return { tau: 0, length: head, re, im };
  const length = Math.sqrt(head * head + tail);
  x.re[0] = re * (head + length);
  x.im[0] = im * (head + length);
  return { tau: 1 / (length * (length + head)), length, re: -re, im: -im };
}

/** H A H = A - v wᴴ - w vᴴ on the rows and columns from `from` on, in terms of conjugates. */
function updateTrailing(a: ComplexMatrix, from: number, v: ComplexVector, tau: number): void {
  const vBar = { re: v.re, im: v.im.map((x) => -x) };
  const wBar = zeros(v.re.length);
  const rows = Array.from(v.re.keys(), (i) => rowOf(a, from + i, from));
  // (A v)ᴴ = vᴴ A is a combination of rows.
  for (const [i, row] of rows.entries()) {
    addMultiple(tau * vBar.re[i]!, tau * vBar.im[i]!, row, wBar);
  }
  addMultiple(-0.5 * tau * dot(vBar, wBar).re, 0, vBar, wBar);
  for (const [i, row] of rows.entries()) {
    addMultiple(-vBar.re[i]!, vBar.im[i]!, wBar, row);
    addMultiple(-wBar.re[i]!, wBar.im[i]!, vBar, row);
  }
}

/** Turns a vector so that its dominant entry is real and positive. */
function normalisePhase(x: ComplexVector): void {
  const i = dominantIndex(x.re.map((re, j) => Math.hypot(re, x.im[j]!)));
  if (i < 0) return;
  const [re, im] = [x.re[i]!, x.im[i]!];
  const length = Math.hypot(re, im);
  for (let j = 0; j < x.re.length; j++) {
    const [a, b] = [x.re[j]!, x.im[j]!];
    x.re[j] = (a * re + b * im) / length;
    x.im[j] = (b * re - a * im) / length;
  }
  x.im[i] = 0;
}
