import { byteLength, collapse, isDense, sizeOf, type Operand } from "@transmla/core";

import type { GpuOperand } from "../gpu.ts";

/**
 * Up to four sizes or strides as the four of a kernel, the innermost last.
 *
 * @param list - At most four numbers.
 * @param missing - What stands for axes that do not exist: 1 for sizes, 0 for strides.
 */
export function four(list: readonly number[], missing: number): number[] {
  return [...new Array<number>(4 - list.length).fill(missing), ...list];
}

/**
 * Another view of the memory of an operand.
 *
 * @param operand - Any operand.
 * @param changes - What differs.
 */
export function viewOf(
  { dtype, buffer, shape, strides, offset }: GpuOperand,
  changes: Partial<Pick<GpuOperand, "shape" | "strides" | "offset">>,
): GpuOperand {
  return { dtype, buffer, shape, strides, offset, ...changes };
}

/** Rows of several operands that are walked in step: at most four axes, and where the first row of each begins. */
export interface RowBlock {
  /** The sizes of the axes of rows, four of them. */
  readonly shape: number[];
  /** How many rows. */
  readonly count: number;
  /** For each operand, the strides of these axes. */
  readonly strides: number[][];
  /** For each operand, where its first row begins. */
  readonly offsets: number[];
}

/**
 * All rows of operands, in few blocks: one unless more than four axes cannot be merged.
 *
 * @param outer - The common shape without the axes within a row.
 * @param operands - For each operand its strides for these axes, and its offset.
 */
export function rowBlocks(
  outer: readonly number[],
  operands: readonly Pick<Operand<unknown>, "strides" | "offset">[],
): RowBlock[] {
  const merged = collapse(
    outer,
    operands.map(({ strides }) => strides.slice(0, outer.length)),
  );
  if (sizeOf(merged.shape) === 0) return [];
  const split = Math.max(merged.shape.length - 4, 0);
  const shape = four(merged.shape.slice(split), 1);
  const strides = merged.strides.map((list) => four(list.slice(split), 0));
  let starts = [operands.map(({ offset }) => offset)];
  for (let axis = 0; axis < split; axis++) {
    starts = starts.flatMap((start) =>
      Array.from({ length: merged.shape[axis]! }, (_, i) =>
        start.map((offset, n) => offset + i * merged.strides[n]![axis]!),
      ),
    );
  }
  return starts.map((offsets) => ({ shape, count: sizeOf(shape), strides, offsets }));
}

/**
 * Whether whole words can be written: the elements are dense and begin on a word, and no other window shares the last.
 *
 * @param out - A result with elements of 16 bits.
 */
export function ownsWholeWords(out: GpuOperand): boolean {
  const size = sizeOf(out.shape);
  const end = byteLength(out.dtype, out.offset + size);
  return (
    isDense(out.shape, out.strides) &&
    out.offset % 2 === 0 &&
    (size % 2 === 0 || end === out.buffer.bytes)
  );
}
