import { byteLength } from "@transmla/core";

import type { Matrix, StoredMatrix } from "./matrix.ts";

/** Threads share the results of few rows in multiples of a cache line, which are whole passes of the kernels too. */
export const LINE = 16;

/** How many multiplications with additions one thread does in a nanosecond, about. */
export const RATE = 20;

/** How many elements of a matrix one thread reads in a nanosecond from memory, about, and how many bytes. */
const READ = { elements: 8, bytes: 14 } as const;

/**
 * About how long one thread takes for a product: for the arithmetic, or for reading the right matrix.
 *
 * @param a - The left matrix.
 * @param b - The right matrix.
 */
export function nanosecondsOf(a: Matrix, b: StoredMatrix): number {
  const elements = b.rows * b.columns;
  return Math.max(
    (a.rows * elements) / RATE,
    elements / READ.elements,
    byteLength(b.dtype, elements) / READ.bytes,
  );
}
