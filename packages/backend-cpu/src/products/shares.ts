import type { Matrix } from "./matrix.ts";

/** Threads share the results of few rows in multiples of a cache line, which are whole passes of the kernels too. */
export const LINE = 16;

/** How many multiplications with additions one thread does in a nanosecond, about. */
export const RATE = 20;

/**
 * About how long one thread takes for a product.
 *
 * @param a - The left matrix.
 * @param b - The right matrix.
 */
export function nanosecondsOf(a: Matrix, b: Matrix): number {
  return (a.rows * a.columns * b.columns) / RATE;
}
