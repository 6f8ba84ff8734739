import { ArgumentError, fail, ShapeError } from "../errors.ts";
import { block, part, plainBlas, transposed } from "./blas.ts";
import type { Blas, Block, LinalgOptions } from "./blas.ts";
import { matrix, requireFinite, requireSquare, size, window } from "./matrix.ts";
import type { Matrix } from "./matrix.ts";

const PANEL = 64;

/**
 * Factors a symmetric positive definite matrix into `l lᵀ`, `l` lower triangular with a positive
 * diagonal (Golub & Van Loan, Matrix Computations, 4th edition, 4.2).
 *
 * @param a - Square; only its lower triangle is read. It is not changed.
 * @param options - The kernels.
 * @throws ShapeError when `a` is not square.
 * @throws ArgumentError when an entry is NaN or infinite, or a pivot is not positive; the pivot is what
 *   is left of a diagonal entry after the columns before it are eliminated.
 *
 * @example
 * ```ts
 * import { cholesky, fromRows } from "@transmla/core/linalg";
 * console.log([...cholesky(fromRows([[4, 2], [2, 10]])).data]); // => [2, 0, 1, 3]
 * ```
 */
export function cholesky(a: Matrix, options: LinalgOptions = {}): Matrix {
  requireSquare("cholesky", a);
  requireFinite("cholesky", a);
  const blas = options.blas ?? plainBlas;
  return blas.withStorage(a.rows ** 2, () => {
    const { data } = factor("cholesky", blas, a);
    return matrix(a.rows, a.rows, data.slice());
  });
}

function factor(operation: string, blas: Blas, a: Matrix): Matrix {
  const n = a.rows;
  const result = matrix(n, n, blas.allocate(n * n));
  for (let i = 0; i < n; i++) result.data.set(a.data.subarray(i * n, i * n + i + 1), i * n);
  const l = window(result);
  for (let start = 0; start < n; start += PANEL) {
    const width = Math.min(PANEL, n - start);
    const end = start + width;
    for (let i = start; i < n; i++) eliminateRow(operation, result, start, Math.min(i, end - 1), i);
    for (let i = end; i < n; i += PANEL) {
      const height = Math.min(PANEL, n - i);
      const right = transposed(part(l, end, start, i + height - end, width));
      const rest = part(l, i, end, height, i + height - end);
      blas.gemm(-1, part(l, i, start, height, width), right, 1, rest);
    }
  }
  for (let i = 0; i < n; i++) result.data.fill(0, i * n + i + 1, (i + 1) * n);
  return result;
}

/** Row `i` of the factor in the columns of a panel, `start` to `last`, given the rows above. */
function eliminateRow(
  operation: string,
  { rows: n, data }: Matrix,
  start: number,
  last: number,
  i: number,
): void {
  for (let j = start; j <= last; j++) {
    let sum = data[i * n + j]!;
    for (let p = start; p < j; p++) sum -= data[i * n + p]! * data[j * n + p]!;
    if (j === i && !(sum > 0)) {
      const problem = `pivot ${i} is ${sum}; the matrix must be positive definite`;
      fail(ArgumentError, operation, problem, size(n, n));
    }
    data[i * n + j] = j < i ? sum / data[j * n + j]! : Math.sqrt(sum);
  }
}

/**
 * Solves `a x = b` for a symmetric positive definite `a` by its Cholesky factor, all columns of `b` at
 * once (Golub & Van Loan, Matrix Computations, 4th edition, 3.1 and 4.2). For the normal equations of
 * a ridge problem, add the ridge to the diagonal first: a rank-deficient `a` is an error.
 *
 * @param a - Symmetric positive definite, `[n, n]`; only its lower triangle is read.
 * @param b - Right-hand sides as columns, `[n, k]`.
 * @param options - The kernels.
 * @returns The solutions as columns, `[n, k]`.
 * @throws ShapeError when the sizes do not fit.
 * @throws ArgumentError when an entry is NaN or infinite, or `a` is not positive definite.
 *
 * @example
 * ```ts
 * import { fromRows, solve } from "@transmla/core/linalg";
 * console.log([...solve(fromRows([[4, 2], [2, 10]]), fromRows([[8], [22]])).data]); // => [1, 2]
 * ```
 */
export function solve(a: Matrix, b: Matrix, options: LinalgOptions = {}): Matrix {
  requireSquare("solve", a);
  if (a.rows !== b.rows) {
    fail(
      ShapeError,
      "solve",
      `numbers of rows ${a.rows} and ${b.rows} differ`,
      size(a.rows, a.cols),
      size(b.rows, b.cols),
    );
  }
  requireFinite("solve", a, b);
  const blas = options.blas ?? plainBlas;
  return blas.withStorage(a.rows * (a.rows + b.cols), () => {
    const l = window(factor("solve", blas, a));
    const x = block(blas.allocate(b.data.length), b.rows, b.cols);
    x.data.set(b.data);
    substituteForward(blas, l, x);
    substituteBackward(blas, l, x);
    return matrix(b.rows, b.cols, x.data.slice());
  });
}

/** x <- l⁻¹ x, a panel of rows at a time: what the rows above contribute is one product. */
function substituteForward(blas: Blas, l: Block, x: Block): void {
  for (let start = 0; start < x.rows; start += PANEL) {
    const height = Math.min(PANEL, x.rows - start);
    const known = part(x, 0, 0, start, x.cols);
    blas.gemm(-1, part(l, start, 0, height, start), known, 1, part(x, start, 0, height, x.cols));
    for (let i = start; i < start + height; i++) {
      for (let p = start; p < i; p++) subtractRow(x, i, l.data[i * l.cols + p]!, p);
      divideRow(x, i, l.data[i * l.cols + i]!);
    }
  }
}

/** x <- l⁻ᵀ x, from the last panel to the first. */
function substituteBackward(blas: Blas, l: Block, x: Block): void {
  for (let start = PANEL * Math.floor((x.rows - 1) / PANEL); start >= 0; start -= PANEL) {
    const end = Math.min(start + PANEL, x.rows);
    const below = transposed(part(l, end, start, x.rows - end, end - start));
    const known = part(x, end, 0, x.rows - end, x.cols);
    blas.gemm(-1, below, known, 1, part(x, start, 0, end - start, x.cols));
    for (let i = end - 1; i >= start; i--) {
      for (let p = i + 1; p < end; p++) subtractRow(x, i, l.data[p * l.cols + i]!, p);
      divideRow(x, i, l.data[i * l.cols + i]!);
    }
  }
}

/** Row i becomes row i - factor row p. */
function subtractRow(x: Block, i: number, factor: number, p: number): void {
  const to = i * x.rowStride;
  const from = p * x.rowStride;
  for (let j = 0; j < x.cols; j++) x.data[to + j] = x.data[to + j]! - factor * x.data[from + j]!;
}

function divideRow(x: Block, i: number, divisor: number): void {
  const start = i * x.rowStride;
  for (let j = start; j < start + x.cols; j++) x.data[j] = x.data[j]! / divisor;
}
