import { plainBlas, transposed } from "./blas.ts";
import type { Blas, LinalgOptions } from "./blas.ts";
import {
  requireFinite,
  requireSquare,
  scaleToOne,
  size,
  TRANSPOSED_ROWS,
  window,
} from "./matrix.ts";
import type { Matrix } from "./matrix.ts";
import { tridiagonalEigenvectors } from "./steps/divide-and-conquer.ts";
import { applyReflectors } from "./steps/householder.ts";
import { columnsFromRows, descending, normalisingSign } from "./steps/ordering.ts";
import { tridiagonalise } from "./steps/tridiagonal.ts";

/** `a = vectors diag(values) vectorsᵀ`. */
export interface Eigh {
  /** Eigenvalues in descending order. */
  readonly values: Float64Array;
  /** Column i is the unit eigenvector of value i. */
  readonly vectors: Matrix;
}

/**
 * Computes all eigenvalues and orthonormal eigenvectors of a real symmetric matrix: Householder
 * reduction to tridiagonal form, divide and conquer, back-transformation (Golub & Van Loan, Matrix
 * Computations, 4th edition, 8.3 and 8.4; LAPACK `dsyevd`). Errors of the values are of the order of
 * the unit roundoff times the largest magnitude among them. The entry of largest magnitude of each
 * vector is positive; of several within a relative 1e-9, the first.
 *
 * @param a - Square; only its lower triangle is read. It is not changed.
 * @param options - The kernels.
 * @throws ShapeError when `a` is not square.
 * @throws ArgumentError when an entry is NaN or infinite.
 * @throws ConvergenceError when an iteration reaches its cap.
 *
 * @example
 * ```ts
 * import { eigh, fromRows } from "@transmla/core/linalg";
 * const { values, vectors } = eigh(fromRows([[1, 0], [0, 4]]));
 * console.log([...values]); // => [4, 1]
 * console.log([...vectors.data]); // => [0, 1, 1, 0]
 * ```
 */
export function eigh(a: Matrix, options: LinalgOptions = {}): Eigh {
  requireSquare("eigh", a);
  requireFinite("eigh", a);
  const blas = options.blas ?? plainBlas;
  return blas.withStorage(5 * a.rows ** 2 + 300 * a.rows + 4096, () => decompose(blas, a));
}

function decompose(blas: Blas, a: Matrix): Eigh {
  const work = symmetricCopy(blas, a);
  const factor = scaleToOne(work.data);
  const { diagonal, offDiagonal, reflectors } = tridiagonalise(blas, window(work));
  const subject = { operation: "eigh", shape: size(a.rows, a.cols) };
  const rows = tridiagonalEigenvectors(blas, diagonal, offDiagonal, subject);
  applyReflectors(blas, reflectors, transposed(rows));
  const order = descending(diagonal);
  return {
    values: Float64Array.from(order, (i) => diagonal[i]! / factor),
    vectors: columnsFromRows(
      rows,
      order,
      order.map((i) => normalisingSign(rows, i)),
    ),
  };
}

/** The lower triangle and its mirror image. */
function symmetricCopy(blas: Blas, a: Matrix): Matrix {
  const n = a.rows;
  const data = blas.allocate(n * n);
  for (let start = 0; start < n; start += TRANSPOSED_ROWS) {
    const end = Math.min(start + TRANSPOSED_ROWS, n);
    for (let i = start; i < end; i++) data.set(a.data.subarray(i * n, i * n + i + 1), i * n);
    for (let j = 0; j < end; j++) {
      for (let i = Math.max(start, j); i < end; i++) data[j * n + i] = a.data[i * n + j]!;
    }
  }
  return { rows: n, cols: n, data };
}
