import { block, part, plainBlas, rowVector, transposed } from "./blas.ts";
import type { Blas, LinalgOptions } from "./blas.ts";
import { copyTransposed, matrix, requireFinite, window } from "./matrix.ts";
import type { Matrix } from "./matrix.ts";
import { negateRow } from "./steps/givens.ts";
import {
  applyPanel,
  applyReflectors,
  makeReflector,
  PANEL,
  panelScratch,
} from "./steps/householder.ts";
import type { Reflectors } from "./steps/householder.ts";

/** `a = q r`, with k the smaller of the numbers of rows and columns of `a`. */
export interface Qr {
  /** Orthonormal columns, `[rows, k]`. */
  readonly q: Matrix;
  /** Upper trapezoidal with a non-negative diagonal, `[k, cols]`. */
  readonly r: Matrix;
}

/**
 * Factors a matrix of any shape into orthonormal columns and an upper triangle, thin form, by
 * blocked Householder reflections (Golub & Van Loan, Matrix Computations, 4th edition, 5.2.2-5.2.3).
 *
 * @param a - Any finite matrix; it is not changed.
 * @param options - The kernels.
 * @throws ArgumentError when an entry is NaN or infinite.
 *
 * @example
 * ```ts
 * import { fromRows, qr } from "@transmla/core/linalg";
 * const { q, r } = qr(fromRows([[0, 2], [3, 1]]));
 * console.log(r.data.map((x) => Math.abs(x))); // => Float64Array.of(3, 1, 0, 2)
 * console.log([q.rows, q.cols]); // => [2, 2]
 * ```
 */
export function qr(a: Matrix, options: LinalgOptions = {}): Qr {
  requireFinite("qr", a);
  const blas = options.blas ?? plainBlas;
  const rank = Math.min(a.rows, a.cols);
  const storage = a.rows * (a.cols + rank) + rank * a.cols + 300 * (a.rows + a.cols) + 8192;
  return blas.withStorage(storage, () => decompose(blas, a));
}

function decompose(blas: Blas, a: Matrix): Qr {
  const { reflectors, r: triangle } = reduceToTriangle(blas, a);
  const r = matrix(triangle.rows, triangle.cols, triangle.data.slice());
  const work = block(blas.allocate(a.rows * r.rows), a.rows, r.rows);
  for (let i = 0; i < r.rows; i++) work.data[i * (r.rows + 1)] = 1;
  applyReflectors(blas, reflectors, work);
  const q = matrix(a.rows, r.rows, work.data.slice());
  for (let i = 0; i < r.rows; i++) {
    if (r.data[i * r.cols + i]! < 0) {
      negateRow(window(r), i);
      for (let k = i; k < q.data.length; k += q.cols) q.data[k] = 0 - q.data[k]!;
    }
  }
  return { q, r };
}

/**
 * Multiplies `a` by reflectors from the left until its upper triangle `r`, `[k, cols]`, in working storage, is
 * left. The work is done on the transpose, where a column and its reflector are contiguous.
 */
export function reduceToTriangle(
  blas: Blas,
  a: Matrix,
): { readonly reflectors: Reflectors; readonly r: Matrix } {
  const { rows, cols } = a;
  const count = Math.min(rows, cols);
  const columns = block(blas.allocate(rows * cols), cols, rows);
  copyTransposed(a, columns.data);
  const r = matrix(count, cols, blas.allocate(count * cols));
  const tau = new Float64Array(count);
  const scratch = panelScratch(blas, cols, PANEL);
  const products = block(blas.allocate(PANEL), PANEL, 1);
  const moveToR = (j: number, height: number): void => {
    for (let i = 0; i < height; i++) r.data[i * cols + j] = columns.data[j * rows + i]!;
    columns.data.fill(0, j * rows, j * rows + height);
  };
  for (let start = 0; start < count; start += PANEL) {
    const end = Math.min(start + PANEL, count);
    for (let j = start; j < end; j++) {
      const reflector = makeReflector(rowVector(columns, j, j));
      tau[j] = reflector.tau;
      r.data[j * cols + j] = reflector.beta;
      const others = part(columns, j + 1, j, end - j - 1, rows - j);
      const product = part(products, 0, 0, others.rows, 1);
      blas.gemm(1, others, rowVector(columns, j, j), 0, product);
      blas.gemm(-reflector.tau, product, part(columns, j, j, 1, rows - j), 1, others);
    }
    for (let j = start; j < end; j++) moveToR(j, j);
    const v = part(columns, start, start, end - start, rows - start);
    const rest = transposed(part(columns, end, start, cols - end, rows - start));
    applyPanel(blas, { v, tau: tau.subarray(start, end) }, rest, scratch, "transpose");
  }
  for (let j = count; j < cols; j++) moveToR(j, count);
  return { reflectors: { rows: part(columns, 0, 0, count, rows), tau, shift: 0 }, r };
}
