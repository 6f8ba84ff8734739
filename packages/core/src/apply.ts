import type { Backend, Kernel, Operand, Ops } from "./backend.ts";
import { isAligned, isBlock } from "./blocks.ts";
import type { DType } from "./dtype.ts";
import { runElementwise } from "./elementwise.ts";
import { fail, ShapeError } from "./errors.ts";
import { scope } from "./scope.ts";
import type { Shape } from "./shape.ts";
import { empty, operandCopy, type Tensor } from "./tensor.ts";

/** What a fused operation means: its result from primitives and other fused operations. */
export type Composition<Attributes> = (inputs: readonly Tensor[], attributes: Attributes) => Tensor;

const elementwise: ReadonlySet<keyof Ops> = new Set(["copy", "unary", "binary"]);

/**
 * The one road from an operation to a backend: makes operands dense where the contract asks for it, allocates the
 * result, runs the kernel, and composes a fused operation that has no kernel or whose kernel declined.
 */
export function apply<K extends keyof Ops>(
  name: K,
  inputs: readonly Tensor[],
  attributes: Ops[K],
  result:
    | { readonly shape: Shape; readonly dtype: DType; readonly backend?: Backend }
    | { readonly into: Tensor },
  composition?: Composition<Ops[K]>,
): Tensor {
  const backend = "into" in result ? result.into.backend : (result.backend ?? inputs[0]!.backend);
  for (const input of inputs) {
    if (input.backend !== backend) {
      fail(
        ShapeError,
        name,
        `operands are on ${backend.name} and ${input.backend.name}`,
        ...inputs,
      );
    }
  }
  const kernel = backend.kernels[name] as Kernel<unknown, Ops[K]> | undefined;
  if (kernel) {
    const out = "into" in result ? result.into : empty(backend, result.shape, result.dtype);
    let written = false;
    try {
      written = out.size === 0 || runKernel(name, kernel, out, inputs, attributes);
      if (written) return out;
    } finally {
      if (!written && !("into" in result)) out.dispose();
    }
  }
  if (!composition)
    return fail(ShapeError, name, `the ${backend.name} backend declined it`, ...inputs);
  return scope(() => composition(inputs, attributes));
}

/** Whether the contract of views lets a kernel have an operand as it is. */
function accepts(name: keyof Ops, position: number, x: Tensor): boolean {
  const { shape, strides } = x;
  if (isBlock(x.dtype)) {
    return name === "copy" || isAligned(x) || (name === "matmul" && isAligned(x, x.rank - 2));
  }
  if (elementwise.has(name) || (name === "gather" && position === 0)) return true;
  const dense = (axis: number): boolean => (shape.at(axis) ?? 1) === 1 || strides.at(axis) === 1;
  return dense(-1) || (name === "matmul" && dense(-2));
}

/** Runs a kernel on operands that meet the contract of views; false when it declined. */
function runKernel<A>(
  name: keyof Ops,
  kernel: Kernel<unknown, A>,
  out: Tensor,
  inputs: readonly Tensor[],
  attributes: A,
): boolean {
  const made: Tensor[] = [];
  try {
    const operands = inputs.map((input, position): Operand<unknown> => {
      if (accepts(name, position, input) && !input.sharesMemoryWith(out)) return input;
      const copy = operandCopy(input);
      made.push(copy);
      return copy;
    });
    if (elementwise.has(name)) return runElementwise(kernel, out, operands, attributes);
    return kernel(out, operands, attributes) !== false;
  } finally {
    for (const copy of made) copy.dispose();
  }
}
