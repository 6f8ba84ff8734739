import { block, plainBlas, transposed } from "./blas.ts";
import type { Blas, Block, LinalgOptions } from "./blas.ts";
import { requireFinite, scaleToOne, size, window } from "./matrix.ts";
import type { Matrix } from "./matrix.ts";
import { reduceToTriangle } from "./qr.ts";
import { bidiagonalise } from "./steps/bidiagonal.ts";
import type { Subject } from "./steps/convergence.ts";
import { bidiagonalSingularVectors } from "./steps/divide-and-conquer.ts";
import { applyReflectors } from "./steps/householder.ts";
import { columnsFromRows, descending, normalisingSign } from "./steps/ordering.ts";

/** `a = u diag(s) vᵀ`, with k the smaller of the numbers of rows and columns of `a`. */
export interface Svd {
  /** Left singular vectors as columns, `[rows, k]`. */
  readonly u: Matrix;
  /** Singular values in descending order, none negative, `[k]`. */
  readonly s: Float64Array;
  /** Right singular vectors as columns, not transposed, `[cols, k]`. */
  readonly v: Matrix;
}

/** A QR factorisation first is cheaper from this ratio of rows to columns on. */
const TALL = 1.6;

/**
 * Computes the thin singular value decomposition of a matrix of any shape and rank: QR when it is
 * tall, Householder reduction to bidiagonal form, divide and conquer, back-transformation (Golub & Van
 * Loan, Matrix Computations, 4th edition, 8.6; LAPACK `dgesdd`). It never forms aᵀa: errors of the
 * values are of the order of the unit roundoff times the largest. The columns of `u` and of `v` are
 * orthonormal to working precision, those of zero singular values included. The entry of largest
 * magnitude of each column of `u` is positive; of several within a relative 1e-9, the first.
 *
 * @param a - Any finite matrix; it is not changed.
 * @param options - The kernels.
 * @throws ArgumentError when an entry is NaN or infinite.
 * @throws ConvergenceError when an iteration reaches its cap.
 *
 * @example
 * ```ts
 * import { fromRows, svd } from "@transmla/core/linalg";
 * const { u, s, v } = svd(fromRows([[0, 2, 0], [-3, 0, 0]]));
 * console.log([...s]); // => [3, 2]
 * console.log([u.rows, u.cols, v.rows, v.cols]); // => [2, 2, 3, 2]
 * ```
 */
export function svd(a: Matrix, options: LinalgOptions = {}): Svd {
  requireFinite("svd", a);
  const blas = options.blas ?? plainBlas;
  const [long, short] = [Math.max(a.rows, a.cols), Math.min(a.rows, a.cols)];
  const storage = 3 * long * short + 7 * short ** 2 + 300 * (long + short) + 8192;
  return blas.withStorage(storage, () => decompose(blas, a));
}

function decompose(blas: Blas, a: Matrix): Svd {
  const isWide = a.rows < a.cols;
  const input = copy(blas, isWide ? transposed(window(a)) : window(a));
  const factor = scaleToOne(input.data);
  const subject = { operation: "svd", shape: size(a.rows, a.cols) };
  const { left, values, right } =
    input.rows >= TALL * input.cols
      ? throughTriangle(blas, input, subject)
      : direct(blas, input, subject);

  const [u, v] = isWide ? [right, left] : [left, right];
  const order = descending(values);
  const signs = order.map((i) => normalisingSign(u, i));
  return {
    u: columnsFromRows(u, order, signs),
    s: Float64Array.from(order, (i) => values[i]! / factor),
    v: columnsFromRows(v, order, signs),
  };
}

/** Singular vectors as rows, in the order of the values, which is none. */
interface SingularTriplets {
  readonly left: Block;
  readonly values: Float64Array;
  readonly right: Block;
}

/** The matrix, with at least as many rows as columns, is destroyed. */
function direct(blas: Blas, a: Matrix, subject: Subject): SingularTriplets {
  const reduced = bidiagonalise(blas, window(a));
  const values = reduced.diagonal;
  const vectors = bidiagonalSingularVectors(blas, values, reduced.superdiagonal, subject);
  const left = extendRows(blas, vectors.left, a.rows);
  applyReflectors(blas, reduced.left, transposed(left));
  applyReflectors(blas, reduced.right, transposed(vectors.right));
  return { left, values, right: vectors.right };
}

/** The same by way of the triangle of a QR factorisation. */
function throughTriangle(blas: Blas, a: Matrix, subject: Subject): SingularTriplets {
  const { reflectors, r } = reduceToTriangle(blas, a);
  const inner = direct(blas, r, subject);
  const left = extendRows(blas, inner.left, a.rows);
  applyReflectors(blas, reflectors, transposed(left));
  return { ...inner, left };
}

function extendRows(blas: Blas, rows: Block, cols: number): Block {
  if (rows.cols === cols) return rows;
  const result = block(blas.allocate(rows.rows * cols), rows.rows, cols);
  for (let i = 0; i < rows.rows; i++) {
    const start = rows.offset + i * rows.rowStride;
    result.data.set(rows.data.subarray(start, start + rows.cols), i * cols);
  }
  return result;
}

function copy(blas: Blas, a: Block): Matrix {
  const data = blas.allocate(a.rows * a.cols);
  let to = 0;
  for (let i = 0; i < a.rows; i++) {
    let from = a.offset + i * a.rowStride;
    for (let j = 0; j < a.cols; j++, from += a.colStride) data[to++] = a.data[from]!;
  }
  return { rows: a.rows, cols: a.cols, data };
}
