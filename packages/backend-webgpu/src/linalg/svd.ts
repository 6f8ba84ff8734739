import { ArgumentError, fail } from "@transmla/core";

import type { GpuOperand } from "../gpu.ts";
import { copy } from "../kernels/copy.ts";
import { fill } from "../kernels/elementwise.ts";
import { factor, multiplyByQ } from "./householder.ts";
import {
  beginColumns,
  extendColumns,
  normaliseColumns,
  refillColumns,
  type Measured,
} from "./shaders/columns.ts";
import { largestOf, measureRows, scaleBy } from "./shaders/magnitudes.ts";
import { PAIR } from "./shaders/pairing.ts";
import { orthogonalise, type Subject } from "./sweeps.ts";
import type { Workspace } from "./workspace.ts";

/** Singular values below this are zero, where the largest entry of the matrix is between 1 and 2. */
const NEGLIGIBLE = 2 ** -42;
/** The length of the noise that takes the place of columns that vanished. */
const NOISE = 2 ** -44;
/** Shorter columns are left alone: products with them underflow. */
const NOTHING = 2 ** -60;

/** The singular value decomposition of a matrix with at least as many rows as columns. */
export interface Decomposition {
  /** Singular values, descending. */
  readonly values: Float32Array;
  /** Writes the left singular vectors `[rows, columns]`. */
  readonly writeLeft: (out: GpuOperand) => void;
  /** Writes the right singular vectors `[columns, columns]`. */
  readonly writeRight: (out: GpuOperand) => void;
}

/**
 * Decomposes a matrix in shaders. Householder QR leaves a square R, and one-sided Jacobi makes its rows orthogonal:
 * `Rᵀ J = V diag(s)`, hence `a = (Q J) diag(s) Vᵀ` (Drmač & Veselić 2008, "New fast and accurate Jacobi SVD algorithm I",
 * section 3, without pivoting). AᵀA is never formed but for pairs of blocks, whose products only choose rotations.
 *
 * @param workspace - Where.
 * @param a - Floats `[rows, columns]`, rows >= columns, of any strides.
 * @param subject - For errors.
 * @throws ArgumentError when an entry is NaN or infinite.
 * @throws ConvergenceError when the sweeps reach their cap.
 */
export async function decompose(
  workspace: Workspace,
  a: GpuOperand,
  subject: Subject,
): Promise<Decomposition> {
  const { gpu } = workspace;
  const [length, rank] = a.shape as [number, number];
  const size = PAIR * Math.ceil(rank / PAIR);
  const stride = 4 * Math.ceil(length / 4);

  const factored = workspace.take(size, stride);
  fill(gpu, factored, [], { start: 0, step: 0 });
  copy(gpu, { ...factored, shape: [rank, length] }, [transposed(a)], {});
  const unit = await scaleToOne(workspace, factored, subject);
  const qr = factor(workspace, factored);

  const measured = { columns: workspace.take(size, 2 * size), norms: workspace.take(size), rank };
  beginColumns(workspace, measured.columns, factored);
  await orthogonalise(workspace, measured.columns, NEGLIGIBLE, subject);
  let found = await measure(workspace, measured);
  if (found.some((norm) => norm <= NEGLIGIBLE)) {
    refillColumns(workspace, measured, NEGLIGIBLE, NOISE);
    await orthogonalise(workspace, measured.columns, NOTHING, subject);
    found = await measure(workspace, measured);
  }
  const order = workspace.take(rank);
  const indices = Uint32Array.from(found.keys()).toSorted((i, j) => found[j]! - found[i]! || i - j);
  workspace.write(order, indices);
  return {
    values: Float32Array.from(indices, (i) => (found[i]! > NEGLIGIBLE ? found[i]! * unit : 0)),
    writeRight: (out) => {
      normaliseColumns(workspace, out, measured, order);
    },
    writeLeft: (out) => {
      const left = workspace.take(size, stride);
      extendColumns(workspace, left, measured, order);
      multiplyByQ(workspace, qr, left);
      copy(gpu, out, [{ ...left, shape: [length, rank], strides: [1, stride] }], {});
    },
  };
}

/**
 * Scales in place such that the largest magnitude lies in [1, 2), by a power of two; returns its inverse.
 *
 * @param workspace - Where.
 * @param a - A dense matrix.
 * @param subject - For errors.
 * @throws ArgumentError when an entry is NaN or infinite.
 */
export async function scaleToOne(
  workspace: Workspace,
  a: GpuOperand,
  subject: Subject,
): Promise<number> {
  const most = await largestOf(workspace, a);
  if (!Number.isFinite(most)) {
    const { operation, shape } = subject;
    fail(ArgumentError, operation, "an entry is NaN or infinite; entries must be finite", shape);
  }
  // 2^126 keeps the factor and its inverse normal.
  const exponent = most === 0 ? 0 : Math.max(-126, Math.min(126, Math.floor(Math.log2(most))));
  if (exponent !== 0) scaleBy(workspace, a, 2 ** -exponent);
  return 2 ** exponent;
}

/** The lengths of the columns. */
async function measure(
  workspace: Workspace,
  { columns, norms, rank }: Measured,
): Promise<Float32Array> {
  measureRows(workspace, columns, columns.shape[0]!, norms);
  return new Float32Array(await workspace.read(norms, rank));
}

/**
 * The view with rows and columns exchanged.
 *
 * @param matrix - A view of two axes.
 */
export function transposed({ buffer, dtype, shape, strides, offset }: GpuOperand): GpuOperand {
  return { buffer, dtype, shape: shape.toReversed(), strides: strides.toReversed(), offset };
}
