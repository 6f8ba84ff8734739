import { block, part, plainBlas, rowVector, transposed } from "./blas.ts";
import type { Blas, LinalgOptions } from "./blas.ts";
import { matrix, requireFinite, window } from "./matrix.ts";
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
  const storage = a.rows * (a.cols + rank) + 300 * (a.rows + a.cols) + 8192;
  return blas.withStorage(storage, () => decompose(blas, a));
}

function decompose(blas: Blas, a: Matrix): Qr {
  const { reflectors, r } = reduceToTriangle(blas, a);
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
 * Multiplies `a` by reflectors from the left until its upper triangle `r`, `[k, cols]`, is left. The
 * work is done on the transpose, where a column and its reflector are contiguous.
 */
export function reduceToTriangle(
  blas: Blas,
  a: Matrix,
): { readonly reflectors: Reflectors; readonly r: Matrix } {
  const { rows, cols } = a;
  const count = Math.min(rows, cols);
  const columns = block(blas.allocate(rows * cols), cols, rows);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) columns.data[j * rows + i] = a.data[i * cols + j]!;
  }
  const r = matrix(count, cols);
  const tau = new Float64Array(count);
  const scratch = panelScratch(blas, cols);
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
      for (let k = j + 1; k < end; k++) reflect(columns.data, rows, j, k, reflector.tau);
    }
    for (let j = start; j < end; j++) moveToR(j, j);
    const v = part(columns, start, start, end - start, rows - start);
    const rest = transposed(part(columns, end, start, cols - end, rows - start));
    applyPanel(blas, { v, tau: tau.subarray(start, end) }, rest, scratch, "transpose");
  }
  for (let j = count; j < cols; j++) moveToR(j, count);
  return { reflectors: { rows: part(columns, 0, 0, count, rows), tau, shift: 0 }, r };
}

/** Applies the reflector in row `j`, from column `j` on, to row `k`. */
function reflect(data: Float64Array, length: number, j: number, k: number, tau: number): void {
  const v = j * length;
  const x = k * length;
  let dot = 0;
  for (let i = j; i < length; i++) dot += data[v + i]! * data[x + i]!;
  for (let i = j; i < length; i++) data[x + i] = data[x + i]! - tau * dot * data[v + i]!;
}
