import { ConvergenceError, fail } from "@transmla/core";

import type { GpuOperand } from "../gpu.ts";
import { BLOCK, PAIR } from "./shaders/pairing.ts";
import { applyRotations } from "./shaders/rotate.ts";
import { findRotations } from "./shaders/rotations.ts";
import type { Workspace } from "./workspace.ts";

/** What is factorised, for errors. */
export interface Subject {
  /** `svd`. */
  readonly operation: string;
  /** `64×32`. */
  readonly shape: string;
}

/** Sweeps after which a factorisation gives up; random matrices of any size take fewer than ten. */
const MOST_SWEEPS = 30;

/** The unit roundoff of f32. */
const ROUNDOFF = 2 ** -24;

/**
 * One-sided Jacobi: rotates pairs of columns until all are orthogonal to f32 precision, block against block. A sweep of
 * n columns is n / 8 - 2 dispatches and one read.
 *
 * @param workspace - Where.
 * @param columns - `[n, 2n]`: columns, whose first halves become orthogonal; the second halves take part in the
 * rotations. n is a multiple of {@link PAIR}.
 * @param floor - Columns shorter than this are left as they are.
 * @param subject - For the error: `svd` and the shape.
 * @throws ConvergenceError when the sweeps reach their cap.
 */
export async function orthogonalise(
  workspace: Workspace,
  columns: GpuOperand,
  floor: number,
  subject: Subject,
): Promise<void> {
  const n = columns.shape[0]!;
  const blocks = n / BLOCK;
  const pairs = blocks / 2;
  const changes = workspace.take(pairs, PAIR, PAIR);
  const cosines = workspace.take(2, pairs);
  // Cosines are sums of n products, whose rounding errors grow with its root.
  const tolerance = 2 * ROUNDOFF * Math.max(4, Math.sqrt(n));
  for (let sweep = 1; sweep <= MOST_SWEEPS; sweep++) {
    for (let round = 0; round < blocks - 1; round++) {
      const settings = { columns, changes, cosines, round, tolerance, floor };
      findRotations(workspace, settings);
      applyRotations(workspace, settings);
    }
    const found = new Float32Array(await workspace.read(cosines, 2 * pairs)).subarray(pairs);
    if (Math.max(...found) <= tolerance) return;
  }
  fail(
    ConvergenceError,
    subject.operation,
    `no convergence after ${MOST_SWEEPS} sweeps`,
    subject.shape,
  );
}
