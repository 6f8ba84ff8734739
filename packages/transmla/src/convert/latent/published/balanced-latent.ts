import { matrix, multiply, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

import { rowsOf, weightedSum } from "../algebra/matrices.ts";
import { principalComponents } from "../algebra/principal-components.ts";
import type { JointLatent } from "../steps/joint-latent.ts";

// Balanced joint PCA of keys without rotation and values (arXiv 2502.07864, section 4.3): principal components of
// [keys / alpha ; values], alpha such that both have the same mean RMS, as keys are usually much larger.

/**
 * The factor alpha: the mean over channels of the RMS of the keys, over that of the values.
 *
 * @param uniform - E[yᵀy] of y = [keys ; values].
 * @param rest - Components of the keys, in rows.
 * @param options - The kernels.
 */
export function keyToValueRatio(
  uniform: Matrix,
  rest: Matrix,
  options: LinalgOptions = {},
): number {
  const half = uniform.rows / 2;
  const keys = matrix(half, half);
  for (let i = 0; i < half; i++) {
    keys.data.set(uniform.data.subarray(i * uniform.cols, i * uniform.cols + half), i * half);
  }
  const moved = multiply(rest, keys, options);
  const squares = Float64Array.from({ length: rest.rows }, (_, i) => {
    const [a, b] = [rowsOf(moved, i, i + 1).data, rowsOf(rest, i, i + 1).data];
    return a.reduce((sum, value, j) => sum + value * b[j]!, 0);
  });
  const values = Float64Array.from(
    { length: half },
    (_, i) => uniform.data[(half + i) * uniform.cols + half + i]!,
  );
  return meanRoot(squares) / meanRoot(values);
}

const meanRoot = (squares: Float64Array): number =>
  squares.reduce((sum, square) => sum + Math.sqrt(Math.max(square, 0)), 0) / squares.length;

/**
 * The joint latent of the components of keys and the values. Its coordinates have unit mean square, a change of basis
 * that no output sees.
 *
 * @param uniform - E[yᵀy] of y = [keys before RoPE ; values].
 * @param rest - The components of the keys without rotation, orthonormal rows.
 * @param alpha - What the keys are divided by.
 * @param rank - r.
 * @param options - The kernels.
 */
export function balancedLatent(
  uniform: Matrix,
  rest: Matrix,
  alpha: number,
  rank: number,
  options: LinalgOptions = {},
): JointLatent {
  const half = uniform.rows / 2;
  const map = matrix(rest.rows + half, uniform.cols); // blockdiag(rest / alpha, 1)
  for (let i = 0; i < rest.rows; i++) {
    for (let j = 0; j < half; j++) map.data[i * map.cols + j] = rest.data[i * half + j]! / alpha;
  }
  for (let i = 0; i < half; i++) map.data[(rest.rows + i) * map.cols + half + i] = 1;
  const covariance = multiply(multiply(map, uniform, options), map, {
    ...options,
    transposeB: true,
  });
  const { encode, decode, eigenvalues } = principalComponents(covariance, rank, true, options);
  const keys = weightedSum([[alpha, rowsOf(decode, 0, rest.rows)]]);
  return {
    encode: multiply(encode, map, options),
    decodeKeys: multiply(rest, keys, { ...options, transposeA: true }),
    decodeValues: rowsOf(decode, rest.rows, decode.rows),
    eigenvalues,
  };
}

/**
 * The latent of full rank: the components of the keys beside the values, with nothing lost.
 *
 * @param rest - The components of the keys without rotation, orthonormal rows.
 */
export function separateLatent(rest: Matrix): JointLatent {
  const half = rest.cols;
  const rank = rest.rows + half;
  const [encode, decodeKeys, decodeValues] = [
    matrix(rank, 2 * half),
    matrix(half, rank),
    matrix(half, rank),
  ];
  for (let i = 0; i < rest.rows; i++) {
    for (let j = 0; j < half; j++) {
      const value = rest.data[i * half + j]!;
      encode.data[i * 2 * half + j] = value;
      decodeKeys.data[j * rank + i] = value;
    }
  }
  for (let j = 0; j < half; j++) {
    encode.data[(rest.rows + j) * 2 * half + half + j] = 1;
    decodeValues.data[j * rank + rest.rows + j] = 1;
  }
  return { encode, decodeKeys, decodeValues, eigenvalues: new Float64Array(rank) };
}
