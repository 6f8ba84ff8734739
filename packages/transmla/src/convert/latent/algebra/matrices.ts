import { eigh, matrix, multiply, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

/**
 * Rows of a matrix, over the same memory.
 *
 * @param a - The matrix.
 * @param start - The first row.
 * @param end - One past the last.
 */
export function rowsOf(a: Matrix, start: number, end: number): Matrix {
  return { rows: end - start, cols: a.cols, data: a.data.subarray(start * a.cols, end * a.cols) };
}

/**
 * Copies matrices of one width below each other.
 *
 * @param parts - At least one.
 */
export function stackRows(parts: readonly Matrix[]): Matrix {
  const rows = parts.reduce((total, part) => total + part.rows, 0);
  const result = matrix(rows, parts[0]!.cols);
  let at = 0;
  for (const { data } of parts) {
    result.data.set(data, at);
    at += data.length;
  }
  return result;
}

/**
 * `blockdiag(blocks) a`.
 *
 * @param blocks - Square matrices whose sizes add up to the rows of `a`.
 * @param a - Any matrix.
 * @param options - The kernels.
 */
export function multiplyBlocks(
  blocks: readonly Matrix[],
  a: Matrix,
  options: LinalgOptions,
): Matrix {
  let row = 0;
  const products = blocks.map((block) => {
    const start = row;
    row += block.rows;
    return multiply(block, rowsOf(a, start, row), options);
  });
  return stackRows(products);
}

/**
 * The sum of matrices of one size, each times a factor.
 *
 * @param terms - Factors and matrices, at least one.
 */
export function weightedSum(terms: readonly (readonly [factor: number, term: Matrix])[]): Matrix {
  const { rows, cols } = terms[0]![1];
  const sum = matrix(rows, cols);
  for (const [factor, { data }] of terms) {
    for (let i = 0; i < data.length; i++) sum.data[i]! += factor * data[i]!;
  }
  return sum;
}

/**
 * The mean of the diagonal.
 *
 * @param a - A square matrix.
 */
export function meanDiagonal(a: Matrix): number {
  let trace = 0;
  for (let i = 0; i < a.rows; i++) trace += a.data[i * a.cols + i]!;
  return trace / a.rows;
}

/**
 * Adds a number to the diagonal, in place.
 *
 * @param a - A square matrix.
 * @param ridge - The number.
 */
export function addToDiagonal(a: Matrix, ridge: number): void {
  for (let i = 0; i < a.rows; i++) a.data[i * a.cols + i]! += ridge;
}

/**
 * The inner product of the entries of two matrices, `tr(aᵀ b)`.
 *
 * @param a - A matrix.
 * @param b - One of the same size.
 */
export function innerProduct(a: Matrix, b: Matrix): number {
  let sum = 0;
  for (let i = 0; i < a.data.length; i++) sum += a.data[i]! * b.data[i]!;
  return sum;
}

/**
 * A power of a positive semidefinite matrix.
 *
 * @param a - The matrix.
 * @param exponent - The power.
 * @param floor - Eigenvalues are raised to this part of the largest.
 * @param options - The kernels.
 */
export function symmetricPower(
  a: Matrix,
  exponent: number,
  floor: number,
  options: LinalgOptions,
): Matrix {
  const { values, vectors } = eigh(a, options);
  const least = floor * values[0]!;
  const scaled = matrix(a.rows, a.cols);
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < a.cols; j++) {
      const at = i * a.cols + j;
      scaled.data[at] = vectors.data[at]! * Math.max(values[j]!, least) ** exponent;
    }
  }
  return multiply(scaled, vectors, { ...options, transposeB: true });
}

/**
 * Copies columns of a matrix.
 *
 * @param a - The matrix.
 * @param start - The first column.
 * @param end - One past the last.
 */
export function columnsOf(a: Matrix, start: number, end: number): Matrix {
  const result = matrix(a.rows, end - start);
  for (let i = 0; i < a.rows; i++) {
    result.data.set(a.data.subarray(i * a.cols + start, i * a.cols + end), i * result.cols);
  }
  return result;
}

/**
 * Copies two matrices of as many rows beside each other.
 *
 * @param a - The left one.
 * @param b - The right one.
 */
export function beside(a: Matrix, b: Matrix): Matrix {
  const result = matrix(a.rows, a.cols + b.cols);
  for (let i = 0; i < a.rows; i++) {
    result.data.set(rowsOf(a, i, i + 1).data, i * result.cols);
    result.data.set(rowsOf(b, i, i + 1).data, i * result.cols + a.cols);
  }
  return result;
}
