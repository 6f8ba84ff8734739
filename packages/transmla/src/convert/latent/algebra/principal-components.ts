import { eigh, matrix, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

/**
 * Coordinates are divided by the root of at least this part of the largest eigenvalue. What calibration tokens hardly have,
 * others may have: their latents must not become so large that a norm which epsilon dominates sees them.
 */
const WHITENING_FLOOR = 1e-8;

/** The way to the coordinates of the strongest components, and back. */
export interface PrincipalComponents {
  /** `[rank, n]`. */
  readonly encode: Matrix;
  /** `[n, rank]`. */
  readonly decode: Matrix;
  /** All n, descending. */
  readonly eigenvalues: Float64Array;
}

/**
 * The strongest components of a second moment.
 *
 * @param moment - `[n, n]`, symmetric.
 * @param rank - How many components; at most n.
 * @param whiten - Whether coordinates have unit mean square.
 * @param options - The kernels.
 */
export function principalComponents(
  moment: Matrix,
  rank: number,
  whiten: boolean,
  options: LinalgOptions,
): PrincipalComponents {
  const n = moment.rows;
  const { values, vectors } = eigh(moment, options);
  const encode = matrix(rank, n);
  const decode = matrix(n, rank);
  for (let j = 0; j < rank; j++) {
    const scale = whiten ? Math.sqrt(Math.max(values[j]!, WHITENING_FLOOR * values[0]!)) : 1;
    for (let i = 0; i < n; i++) {
      const component = vectors.data[i * n + j]!;
      encode.data[j * n + i] = component / scale;
      decode.data[i * rank + j] = component * scale;
    }
  }
  return { encode, decode, eigenvalues: values };
}
