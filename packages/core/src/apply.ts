import type { Backend, Kernel, Operand, Ops } from "./backend.ts";
import type { DType } from "./dtype.ts";
import { runElementwise } from "./elementwise.ts";
import { fail, ShapeError } from "./errors.ts";
import { scope } from "./scope.ts";
import type { Shape } from "./shape.ts";
import { dense, empty, type Tensor } from "./tensor.ts";

/** What a fused operation means: its result from primitives and other fused operations. */
export type Composition<Attributes> = (inputs: readonly Tensor[], attributes: Attributes) => Tensor;

const elementwise: ReadonlySet<keyof Ops> = new Set(["copy", "unary", "binary"]);
const takesAnyStrides: ReadonlySet<keyof Ops> = new Set([...elementwise, "matmul", "gather"]);

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
    if (out.size === 0 || runKernel(name, kernel, out, inputs, attributes)) return out;
    out.dispose();
  }
  if (!composition)
    return fail(ShapeError, name, `the ${backend.name} backend declined it`, ...inputs);
  return scope(() => composition(inputs, attributes));
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
  const operands = inputs.map((input): Operand<unknown> => {
    const lastAxisDense =
      input.rank === 0 || input.shape.at(-1) === 1 || input.strides.at(-1) === 1;
    const usable = takesAnyStrides.has(name) || lastAxisDense;
    if (usable && !input.sharesMemoryWith(out)) return input;
    const copy = usable ? copied(input) : dense(input);
    made.push(copy);
    return copy;
  });
  try {
    if (elementwise.has(name)) {
      runElementwise(kernel, out, operands, attributes);
      return true;
    }
    return kernel(out, operands, attributes) !== false;
  } finally {
    for (const copy of made) copy.dispose();
  }
}

function copied(x: Tensor): Tensor {
  const out = empty(x.backend, x.shape, x.dtype);
  if (x.size > 0) runElementwise(x.backend.kernels.copy, out, [x], {});
  return out;
}
