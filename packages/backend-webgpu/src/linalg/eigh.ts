import type { GpuOperand } from "../gpu.ts";
import { copy } from "../kernels/copy.ts";
import { matmul } from "../kernels/matmul.ts";
import { measureRows, scaleBy, shiftDiagonal } from "./shaders/magnitudes.ts";
import { decompose, scaleToOne } from "./svd.ts";
import type { Workspace } from "./workspace.ts";

/** Squarings of the matrix that its norm is bounded by. */
const SQUARINGS = 3;

/**
 * Eigenvalues and eigenvectors of a symmetric matrix: the singular values and vectors of `a + b I`, which has no negative
 * eigenvalue where b bounds the norm of `a`.
 *
 * @param workspace - Where.
 * @param values - Filled with the eigenvalues, descending.
 * @param vectors - Filled with the eigenvectors, in columns.
 * @param a - Floats `[n, n]`, symmetric.
 */
export async function eigh(
  workspace: Workspace,
  values: GpuOperand,
  vectors: GpuOperand,
  a: GpuOperand,
): Promise<void> {
  const n = a.shape[0]!;
  const shifted = workspace.take(n, n);
  copy(workspace.gpu, shifted, [a], {});
  const subject = { operation: "eigh", shape: `${n}×${n}` };
  const unit = await scaleToOne(workspace, shifted, subject);
  const bound = await boundNorm(workspace, shifted);
  shiftDiagonal(workspace, shifted, bound);
  const factors = await decompose(workspace, shifted, subject);
  workspace.write(
    values,
    factors.values.map((value) => unit * (value - bound)),
  );
  factors.writeRight(vectors);
}

/**
 * An upper bound of the 2-norm: that of a power of the matrix is at most its Frobenius norm, so that of the matrix at
 * most the root of it, and the gap closes with the power: it is a factor of n^(1/16) at most.
 */
async function boundNorm(workspace: Workspace, a: GpuOperand): Promise<number> {
  const n = a.shape[0]!;
  const norms = workspace.take(n);
  const measure = async (matrix: GpuOperand): Promise<number> => {
    measureRows(workspace, matrix, n, norms);
    return Math.hypot(...new Float32Array(await workspace.read(norms, n)));
  };
  const found = [await measure(a)];
  let [power, next] = [workspace.take(n, n), workspace.take(n, n)];
  copy(workspace.gpu, power, [a], {});
  for (let k = 0; k < SQUARINGS && found.at(-1)! > 0; k++) {
    scaleBy(workspace, power, 1 / found.at(-1)!);
    matmul(workspace.gpu, next, [power, power], {});
    found.push(await measure(next));
    [power, next] = [next, power];
  }
  // norm(a) <= f0 (f1 (f2 f3^1/2)^1/2)^1/2; a little more for the rounding of the products.
  return (1 + 2 ** -10) * found.reduceRight((root, norm) => norm * Math.sqrt(root), 1);
}
