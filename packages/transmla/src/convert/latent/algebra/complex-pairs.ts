import { matrix, type Matrix } from "@transmla/core/linalg";

// A RoPE pair is a complex number: component l of a head plus i times component l + d/2. Complex maps of pairs are real
// matrices on the half-split components, x + iy being the block [[x, -y], [y, x]].

/** Complex numbers. */
export interface ComplexVector {
  /** Real parts. */
  readonly re: Float64Array;
  /** Imaginary parts. */
  readonly im: Float64Array;
}

/**
 * Zeros to be filled.
 *
 * @param length - How many.
 */
export function complexZeros(length: number): ComplexVector {
  return { re: new Float64Array(length), im: new Float64Array(length) };
}

/**
 * Ones: the phases of queries that stay as they are.
 *
 * @param length - How many.
 */
export function unitPhases(length: number): ComplexVector {
  const phases = complexZeros(length);
  phases.re.fill(1);
  return phases;
}

/**
 * Sets the block of a complex number in a real matrix.
 *
 * @param into - The matrix; changed in place.
 * @param rows - The rows of the real and the imaginary output.
 * @param cols - The columns of the real and the imaginary input.
 * @param re - The real part of the number.
 * @param im - Its imaginary part.
 */
export function setComplexBlock(
  into: Matrix,
  rows: readonly [re: number, im: number],
  cols: readonly [re: number, im: number],
  re: number,
  im: number,
): void {
  into.data[rows[0] * into.cols + cols[0]] = re;
  into.data[rows[0] * into.cols + cols[1]] = -im;
  into.data[rows[1] * into.cols + cols[0]] = im;
  into.data[rows[1] * into.cols + cols[1]] = re;
}

/**
 * Multiplies the pairs of a head, the rows of a matrix, each by its own complex number.
 *
 * @param factors - One for each pair, m of them.
 * @param a - `[2 m, n]`: real parts, then imaginary parts.
 */
export function multiplyPairs(factors: ComplexVector, a: Matrix): Matrix {
  const pairs = factors.re.length;
  const result = matrix(a.rows, a.cols);
  for (let l = 0; l < pairs; l++) {
    const [re, im] = [factors.re[l]!, factors.im[l]!];
    for (let j = 0; j < a.cols; j++) {
      const [first, second] = [l * a.cols + j, (l + pairs) * a.cols + j];
      result.data[first] = re * a.data[first]! - im * a.data[second]!;
      result.data[second] = im * a.data[first]! + re * a.data[second]!;
    }
  }
  return result;
}
