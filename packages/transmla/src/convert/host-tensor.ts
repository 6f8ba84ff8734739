import { sizeOf, type Shape } from "@transmla/core";
import type { Matrix } from "@transmla/core/linalg";

/** A weight on the host in f64, row-major: the form in which conversions compute. */
export interface HostTensor {
  /** `[rows, cols]` of a matrix, `[n]` of a vector. */
  readonly shape: Shape;
  /** The elements. */
  readonly data: Float64Array;
}

/** A tensor of zeros to be filled. */
export function zeros(...shape: readonly number[]): HostTensor {
  return { shape, data: new Float64Array(sizeOf(shape)) };
}

/** The same tensor times a number. */
export function scaled(tensor: HostTensor, by: number): HostTensor {
  return by === 1 ? tensor : { shape: tensor.shape, data: tensor.data.map((x) => x * by) };
}

/** A weight `[rows, cols]` as a matrix over the same memory. */
export function asMatrix({ shape, data }: HostTensor): Matrix {
  const [rows, cols] = shape as [number, number];
  return { rows, cols, data };
}

/** A matrix as a weight over the same memory. */
export function fromMatrix({ rows, cols, data }: Matrix): HostTensor {
  return { shape: [rows, cols], data };
}

/**
 * Copies rows of one tensor into another of the same width; vectors have width 1.
 *
 * @param into - The target; changed in place.
 * @param at - Its first row.
 * @param from - The source.
 * @param rows - Which of its rows, in order.
 * @param by - A factor.
 */
export function copyRows(
  into: HostTensor,
  at: number,
  from: HostTensor,
  rows: Iterable<number>,
  by = 1,
): void {
  const width = into.shape[1] ?? 1;
  let target = at * width;
  for (const row of rows) {
    for (let i = 0; i < width; i++) into.data[target++] = from.data[row * width + i]! * by;
  }
}

/** The numbers from `start` to `end - 1`. */
export function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, i) => start + i);
}
