import { byteLength, collapse, isBlock, type DType, type Operand } from "@transmla/core";

import type { CpuBuffer, Memory } from "./memory.ts";

/** What the kernels of this backend receive. */
export type CpuOperand = Operand<CpuBuffer>;

/** A kernel before it is bound to a memory. Scratch that it takes from the memory is given back when it returns. */
export type CpuKernel<Attributes> = (
  memory: Memory,
  out: CpuOperand,
  inputs: readonly CpuOperand[],
  attributes: Attributes,
) => void;

/**
 * Whether elements are 16 bits wide and have to be widened before arithmetic.
 *
 * @param dtype - Any element type.
 */
export function isHalf(dtype: DType): dtype is "f16" | "bf16" {
  return dtype === "f16" || dtype === "bf16";
}

/**
 * The index of an operand's first element in the view of the memory that has its width. Blocks have no such view: their
 * elements are counted from the start of the buffer, where {@link baseOf} tells.
 *
 * @param operand - Any operand.
 */
export function startOf(operand: CpuOperand): number {
  const { dtype, buffer, offset } = operand;
  return isBlock(dtype) ? offset : buffer.byteOffset / byteLength(dtype, 1) + offset;
}

/**
 * The address from which the elements of an operand are counted: 0 for the whole memory.
 *
 * @param operand - Any operand.
 */
export function baseOf({ dtype, buffer }: CpuOperand): number {
  return isBlock(dtype) ? buffer.byteOffset : 0;
}

/**
 * The step of the last axis; 0 for a scalar.
 *
 * @param operand - Any operand.
 */
export function lastStep(operand: CpuOperand): number {
  return operand.strides.at(-1) ?? 0;
}

/**
 * Visits every index of all axes but the last, in row-major order.
 *
 * @param shape - The common shape of the operands but for their last axes.
 * @param operands - What is walked in step.
 * @param visit - Receives where the row of each operand starts, in a list that is reused.
 */
export function forEachRow(
  shape: readonly number[],
  operands: readonly CpuOperand[],
  visit: (at: readonly number[]) => void,
): void {
  const outer = shape.slice(0, -1);
  if (outer.includes(0)) return;
  const at = operands.map(startOf);
  const index = outer.map(() => 0);
  for (;;) {
    visit(at);
    let axis = outer.length - 1;
    while (axis >= 0 && index[axis] === outer[axis]! - 1) {
      for (let i = 0; i < at.length; i++) at[i]! -= index[axis]! * operands[i]!.strides[axis]!;
      index[axis--] = 0;
    }
    if (axis < 0) return;
    index[axis]!++;
    for (let i = 0; i < at.length; i++) at[i]! += operands[i]!.strides[axis]!;
  }
}

/** An axis shorter than this is not worth a loop of its own where another one is longer. */
const SHORT = 16;

/**
 * The same elements as few, long lines: merges axes that all operands walk as one, and makes the longest axis the last
 * where the last one is short.
 *
 * @param operands - Operands of one shape that are visited elementwise, in any order.
 */
export function longLines(operands: readonly CpuOperand[]): readonly CpuOperand[] {
  const merged = collapse(
    operands[0]!.shape,
    operands.map(({ strides }) => strides),
  );
  const last = merged.shape.length - 1;
  const longest = merged.shape.indexOf(Math.max(...merged.shape));
  const innermost = last >= 0 && merged.shape[last]! < SHORT ? longest : last;
  const order = (list: readonly number[]): number[] =>
    innermost === last ? [...list] : [...list.toSpliced(innermost, 1), list[innermost]!];
  const shape = order(merged.shape);
  return operands.map(({ dtype, buffer, offset }, i) => {
    return { dtype, buffer, offset, shape, strides: order(merged.strides[i]!) };
  });
}
