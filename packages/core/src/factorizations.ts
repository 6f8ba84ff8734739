import type { Routines } from "./backend.ts";
import { fail, ShapeError } from "./errors.ts";
import type { LinalgOptions } from "./linalg/blas.ts";
import { eigh as hostEigh } from "./linalg/eigh.ts";
import type { Matrix } from "./linalg/matrix.ts";
import { qr as hostQr } from "./linalg/qr.ts";
import { svd as hostSvd } from "./linalg/svd.ts";
import { requireFloats } from "./ops.ts";
import type { Shape } from "./shape.ts";
import { dense, empty, tensor, type Tensor } from "./tensor.ts";

// Factorisations of tensors: by a routine of the backend where it has one, else in f64 on the host with the backend's `blas`. They are
// async, and their results belong to the caller: no scope frees them.

/**
 * Factorises a matrix: the backend's routine fills outputs of the given shapes, or the host's f64 function makes them.
 */
async function factorise(
  name: keyof Routines<unknown>,
  a: Tensor,
  shapes: (m: number, n: number) => readonly Shape[],
  onHost: (matrix: Matrix, options: LinalgOptions) => readonly (Matrix | Float64Array)[],
): Promise<Tensor[]> {
  requireFloats(name, a);
  if (a.rank !== 2) fail(ShapeError, name, "needs a matrix", a);
  const [rows, cols] = a.shape as [number, number];
  const routine = a.backend.routines?.[name] as Routine | undefined;
  if (!routine || a.size === 0) {
    const data = new Float64Array(await a.read());
    const factors = onHost({ rows, cols, data }, { blas: a.backend.blas });
    return factors.map((factor) => {
      return factor instanceof Float64Array
        ? tensor(a.backend, factor, [factor.length])
        : tensor(a.backend, factor.data, [factor.rows, factor.cols]);
    });
  }
  const outputs = shapes(rows, cols).map((shape) => empty(a.backend, shape));
  const input = dense(a);
  try {
    await routine(outputs, input);
    return outputs;
  } catch (error) {
    for (const output of outputs) output.dispose();
    throw error;
  } finally {
    if (input !== a) input.dispose();
  }
}

/** The routines of a backend, seen alike. */
type Routine = (outputs: readonly Tensor[], input: Tensor) => Promise<void>;

/** The factors of {@link svd}; the caller disposes of them. */
export interface SvdTensors {
  /** Left singular vectors in columns, `[m, k]`. */
  readonly u: Tensor;
  /** Singular values `[k]`, descending. */
  readonly s: Tensor;
  /** Right singular vectors in columns, `[n, k]`. */
  readonly v: Tensor;
}

/**
 * The thin singular value decomposition `a = u diag(s) vᵀ`, k = min(m, n).
 *
 * @param a - Floats `[m, n]`.
 *
 * @example
 * ```ts
 * import { cpuBackend } from "@transmla/backend-cpu";
 * import { svd, tensor } from "@transmla/core";
 * const { s } = await svd(tensor(await cpuBackend(), [3, 0, 0, -2], [2, 2]));
 * console.log(Array.from(await s.read())); // => [3, 2]
 * ```
 */
export async function svd(a: Tensor): Promise<SvdTensors> {
  const shapes = (m: number, n: number): Shape[] => [
    [m, Math.min(m, n)],
    [Math.min(m, n)],
    [n, Math.min(m, n)],
  ];
  const [u, s, v] = await factorise("svd", a, shapes, (matrix, options) => {
    const { u, s, v } = hostSvd(matrix, options);
    return [u, s, v];
  });
  return { u: u!, s: s!, v: v! };
}

/** The factors of {@link qr}; the caller disposes of them. */
export interface QrTensors {
  /** Orthonormal columns, `[m, k]`. */
  readonly q: Tensor;
  /** Upper triangular, `[k, n]`. */
  readonly r: Tensor;
}

/**
 * The thin QR factorisation `a = q r`, k = min(m, n).
 *
 * @param a - Floats `[m, n]`.
 */
export async function qr(a: Tensor): Promise<QrTensors> {
  const shapes = (m: number, n: number): Shape[] => [
    [m, Math.min(m, n)],
    [Math.min(m, n), n],
  ];
  const [q, r] = await factorise("qr", a, shapes, (matrix, options) => {
    const { q, r } = hostQr(matrix, options);
    return [q, r];
  });
  return { q: q!, r: r! };
}

/** The result of {@link eigh}; the caller disposes of it. */
export interface EighTensors {
  /** Eigenvalues `[n]`, descending. */
  readonly values: Tensor;
  /** Eigenvectors in columns, `[n, n]`. */
  readonly vectors: Tensor;
}

/**
 * Eigenvalues and eigenvectors of a symmetric matrix.
 *
 * @param a - Floats `[n, n]`, symmetric.
 */
export async function eigh(a: Tensor): Promise<EighTensors> {
  if (a.rank === 2 && a.shape[0] !== a.shape[1])
    fail(ShapeError, "eigh", "the matrix must be square", a);
  const shapes = (n: number): Shape[] => [[n], [n, n]];
  const [values, vectors] = await factorise("eigh", a, shapes, (matrix, options) => {
    const { values, vectors } = hostEigh(matrix, options);
    return [values, vectors];
  });
  return { values: values!, vectors: vectors! };
}
