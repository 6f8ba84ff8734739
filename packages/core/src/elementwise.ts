import type { Kernel, Operand } from "./backend.ts";
import { isBlock } from "./blocks.ts";
import { collapse } from "./shape.ts";

/** Kernels see at most this many axes: a rank-4 view fits the uniform slot of a GPU kernel. */
const MAX_AXES = 4;

/**
 * Runs an elementwise kernel on operands of one shape: merges axes, and walks the outermost ones where more than four
 * remain. The last axis of blocks that are written stays what it is. False when the kernel declined.
 */
export function runElementwise<B, Attributes>(
  kernel: Kernel<B, Attributes>,
  out: Operand<B>,
  inputs: readonly Operand<B>[],
  attributes: Attributes,
): boolean {
  const operands = [out, ...inputs];
  const merged = isBlock(out.dtype) ? out.shape.length - 1 : out.shape.length;
  const axes = collapse(
    out.shape.slice(0, merged),
    operands.map(({ strides }) => strides.slice(0, merged)),
  );
  axes.shape.push(...out.shape.slice(merged));
  operands.forEach(({ strides }, n) => axes.strides[n]!.push(...strides.slice(merged)));
  const inner = Math.max(axes.shape.length - MAX_AXES, 0);
  const visit = (axis: number, offsets: readonly number[]): boolean => {
    if (axis < inner) {
      for (let i = 0; i < axes.shape[axis]!; i++) {
        const moved = offsets.map((offset, n) => offset + i * axes.strides[n]![axis]!);
        if (!visit(axis + 1, moved)) return false;
      }
      return true;
    }
    const shape = axes.shape.slice(inner);
    const [first, ...rest] = operands.map(({ dtype, buffer }, n) => {
      return { dtype, buffer, shape, strides: axes.strides[n]!.slice(inner), offset: offsets[n]! };
    });
    return kernel(first!, rest, attributes) !== false;
  };
  return visit(
    0,
    operands.map((operand) => operand.offset),
  );
}
