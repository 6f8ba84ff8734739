import { ArgumentError, fail, ShapeError } from "../errors.ts";
import { block, plainBlas, transposed } from "./blas.ts";
import type { Block, LinalgOptions } from "./blas.ts";

/** A dense real matrix in f64. Entry (i, j) is `data[i * cols + j]`. */
export interface Matrix {
  /** The number of rows. */
  readonly rows: number;
  /** The number of columns. */
  readonly cols: number;
  /** The entries, row by row. */
  readonly data: Float64Array;
}

/**
 * Makes a matrix over row-major entries, which it does not copy.
 *
 * @param rows - Number of rows, 0 or more.
 * @param cols - Number of columns, 0 or more.
 * @param data - The `rows * cols` entries, row after row; zeros when absent.
 * @throws ArgumentError when a size is negative or not whole.
 * @throws ShapeError when the number of entries is not `rows * cols`.
 *
 * @example
 * ```ts
 * import { matrix, multiply } from "@transmla/core/linalg";
 * const a = matrix(2, 3, new Float64Array([1, 2, 3, 4, 5, 6]));
 * console.log([...multiply(a, a, { transposeB: true }).data]); // => [14, 32, 32, 77]
 * ```
 */
export function matrix(rows: number, cols: number, data?: Float64Array): Matrix {
  if (!(Number.isInteger(rows) && Number.isInteger(cols) && rows >= 0 && cols >= 0)) {
    fail(ArgumentError, "matrix", "sizes must be whole numbers from 0 on", size(rows, cols));
  }
  const entries = data ?? new Float64Array(rows * cols);
  if (entries.length !== rows * cols) {
    const problem = `needs ${rows * cols} entries, found ${entries.length}`;
    fail(ShapeError, "matrix", problem, size(rows, cols));
  }
  return { rows, cols, data: entries };
}

/**
 * Makes a matrix from its rows, which it copies.
 *
 * @param rows - Rows of one length.
 * @throws ShapeError when the rows differ in length.
 */
export function fromRows(rows: readonly ArrayLike<number>[]): Matrix {
  const cols = rows[0]?.length ?? 0;
  const result = matrix(rows.length, cols);
  for (const [i, row] of rows.entries()) {
    if (row.length !== cols) {
      fail(ShapeError, "fromRows", `row ${i} has ${row.length} entries, row 0 has ${cols}`);
    }
    result.data.set(row, i * cols);
  }
  return result;
}

/**
 * Makes the identity matrix, or the first columns or rows of one.
 *
 * @param rows - Number of rows.
 * @param cols - Number of columns; `rows` when absent.
 */
export function identity(rows: number, cols: number = rows): Matrix {
  const result = matrix(rows, cols);
  for (let i = 0; i < Math.min(rows, cols); i++) result.data[i * cols + i] = 1;
  return result;
}

/**
 * Copies a matrix into its transpose.
 *
 * @param a - Any matrix.
 */
export function transpose(a: Matrix): Matrix {
  const result = matrix(a.cols, a.rows);
  copyTransposed(a, result.data);
  return result;
}

/** Rows that are transposed at a time: eight entries of a column fill a cache line of the result. */
export const TRANSPOSED_ROWS = 8;

/** Writes the columns of a matrix one after another. */
export function copyTransposed({ rows, cols, data }: Matrix, to: Float64Array): void {
  for (let start = 0; start < rows; start += TRANSPOSED_ROWS) {
    const end = Math.min(start + TRANSPOSED_ROWS, rows);
    for (let j = 0; j < cols; j++) {
      for (let i = start; i < end; i++) to[j * rows + i] = data[i * cols + j]!;
    }
  }
}

/**
 * Multiplies two matrices, either of which may be taken transposed at no cost.
 *
 * @param a - Left factor.
 * @param b - Right factor.
 * @param options - Which factors to transpose, and the kernels.
 * @throws ShapeError when the inner sizes differ.
 */
export function multiply(
  a: Matrix,
  b: Matrix,
  options: LinalgOptions & { readonly transposeA?: boolean; readonly transposeB?: boolean } = {},
): Matrix {
  const left = options.transposeA ? transposed(window(a)) : window(a);
  const right = options.transposeB ? transposed(window(b)) : window(b);
  if (left.cols !== right.rows) {
    fail(
      ShapeError,
      "multiply",
      `inner sizes ${left.cols} and ${right.rows} differ`,
      size(left.rows, left.cols),
      size(right.rows, right.cols),
    );
  }
  const result = matrix(left.rows, right.cols);
  (options.blas ?? plainBlas).gemm(1, left, right, 0, window(result));
  return result;
}

/** The whole of a matrix as a window. */
export function window(a: Matrix): Block {
  return block(a.data, a.rows, a.cols);
}

/** A size as error messages print it. */
export function size(rows: number, cols: number): string {
  return `${rows}×${cols}`;
}

/** Refuses NaN and infinities, on which iterations would not end. */
export function requireFinite(operation: string, ...matrices: readonly Matrix[]): void {
  for (const { rows, cols, data } of matrices) {
    let index = 0;
    while (index < data.length && Number.isFinite(data[index])) index++;
    if (index === data.length) continue;
    const [row, col] = [Math.floor(index / cols), index % cols];
    fail(
      ArgumentError,
      operation,
      `entry (${row}, ${col}) is ${data[index]}; entries must be finite`,
      size(rows, cols),
    );
  }
}

/** Refuses a matrix that is not square. */
export function requireSquare(operation: string, a: Matrix): void {
  if (a.rows !== a.cols)
    fail(ShapeError, operation, "the matrix must be square", size(a.rows, a.cols));
}

/** The largest absolute value, 0 of none. */
export function largestMagnitude(values: Float64Array): number {
  let largest = 0;
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]!));
  return largest;
}

/**
 * Multiplies arrays by the power of two that brings their largest magnitude near 1, so that squares
 * neither overflow nor vanish. That is exact but for numbers that become subnormal.
 *
 * @returns The factor.
 */
export function scaleToOne(...arrays: readonly Float64Array[]): number {
  const largest = Math.max(0, ...arrays.map(largestMagnitude));
  // 2^1000 is enough for subnormal numbers and does not overflow.
  const factor = largest === 0 ? 1 : 2 ** Math.min(1000, -Math.floor(Math.log2(largest)));
  for (const data of arrays) {
    for (let i = 0; i < data.length; i++) data[i]! *= factor;
  }
  return factor;
}
