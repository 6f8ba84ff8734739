import { byteLength } from "@transmla/core";

import type { Matrix, StoredMatrix } from "./matrix.ts";

/** Threads share the results of few rows in multiples of a cache line, which are whole passes of the kernels too. */
export const LINE = 16;

/** How many multiplications with additions one thread does in a nanosecond, about. */
export const RATE = 20;

/** How many bytes of a matrix reach one thread in a nanosecond, about, where it is read from memory. */
const BANDWIDTH = 15;

/**
 * About how long one thread takes for a product: for the arithmetic, or for reading the right matrix.
 *
 * @param a - The left matrix.
 * @param b - The right matrix.
 */
export function nanosecondsOf(a: Matrix, b: StoredMatrix): number {
  const arithmetic = (a.rows * a.columns * b.columns) / RATE;
  return Math.max(arithmetic, byteLength(b.dtype, b.rows * b.columns) / BANDWIDTH);
}
