import { ConvergenceError, fail } from "../../errors.ts";

/** What an iteration works for, as error messages name it. */
export interface Subject {
  readonly operation: string;
  readonly shape: string;
}

/** How often an iteration may sweep for one value; two or three times are usual. */
export const MAX_SWEEPS = 30;

/**
 * What an algorithm may neglect in a matrix of this magnitude: 8 units of roundoff, as LAPACK `dlaed2`;
 * an iteration may stall at less. Whole matrices are scaled to about 1, so that nothing below the
 * absolute bound, from where on squares begin to vanish, matters.
 */
export function deflationTolerance(magnitude: number): number {
  return Math.max(4 * Number.EPSILON * magnitude, 2 ** -460);
}

/** Throws, `attempts` being what the iteration spent in vain: `30 sweeps`. */
export function notConverged({ operation, shape }: Subject, attempts: string): never {
  fail(ConvergenceError, operation, `no convergence after ${attempts}`, shape);
}
