import type { Kernel, Operand } from "./backend.ts";
import { collapse } from "./shape.ts";

/** Kernels see at most this many axes: a rank-4 view fits the uniform slot of a GPU kernel. */
const MAX_AXES = 4;

/**
 * Runs an elementwise kernel on operands of one shape: merges axes, and walks the outermost one where more than four
 * remain.
 */
export function runElementwise<B, Attributes>(
  kernel: Kernel<B, Attributes>,
  out: Operand<B>,
  inputs: readonly Operand<B>[],
  attributes: Attributes,
): void {
  const operands = [out, ...inputs];
  const axes = collapse(
    out.shape,
    operands.map((operand) => operand.strides),
  );
  const inner = Math.max(axes.shape.length - MAX_AXES, 0);
  const visit = (axis: number, offsets: readonly number[]): void => {
    if (axis < inner) {
      for (let i = 0; i < axes.shape[axis]!; i++) {
        visit(
          axis + 1,
          offsets.map((offset, n) => offset + i * axes.strides[n]![axis]!),
        );
      }
      return;
    }
    const shape = axes.shape.slice(inner);
    const [first, ...rest] = operands.map(({ dtype, buffer }, n) => {
      return { dtype, buffer, shape, strides: axes.strides[n]!.slice(inner), offset: offsets[n]! };
    });
    kernel(first!, rest, attributes);
  };
  visit(
    0,
    operands.map((operand) => operand.offset),
  );
}
