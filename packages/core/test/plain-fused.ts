import type { FusedOps, Kernel, Kernels, Operand, Ops } from "@transmla/core";
import type { Elements } from "@transmla/core/testing";

import * as reference from "../src/testing/reference-fused.ts";
import { elements, type Memory, walk } from "./plain-backend.ts";

// Every fused operation as a kernel that is its reference in f64, with one rounding at the end.

type Reference<A> = (operands: readonly Elements[], attributes: A) => Elements;

const references: { readonly [K in keyof FusedOps]: Reference<Ops[K]> } = {
  softmax: ([x]) => reference.softmax(x!),
  rmsNorm: ([x, weight], attributes) => reference.rmsNorm(x!, weight!, attributes),
  rope: ([x, cos, sin], { interleaved }) => reference.rope(x!, cos!, sin!, interleaved),
  attention: ([q, k, v], attributes) => reference.attention(q!, k!, v!, attributes),
  gatedActivation: ([gate, up], { fn }) => reference.gatedActivation(gate!, up!, fn),
  expertMatmul: ([x, weights, ids]) => reference.expertMatmul(x!, weights!, ids!),
};

/** The elements of a view in row-major order. */
function read(operand: Operand<Memory>): Elements {
  const values: number[] = [];
  const held = elements(operand);
  walk(operand.shape, [operand], (at) => values.push(held.get(at)));
  return { shape: operand.shape, values };
}

/** A kernel that declines inner sizes that are multiples of five, so that both ways are taken. */
function kernel<A>(meaning: Reference<A>): Kernel<Memory, A> {
  return (out, inputs, attributes) => {
    if (inputs[0]!.shape.at(-1)! % 5 === 0) return false;
    const { values } = meaning(inputs.map(read), attributes);
    const written = elements(out);
    let next = 0;
    walk(out.shape, [out], (at) => {
      written.set(at, values[next++]!);
    });
    return undefined;
  };
}

/** Kernels for every fused operation. */
export const fusedKernels: Partial<Kernels<Memory>> = {
  softmax: kernel(references.softmax),
  rmsNorm: kernel(references.rmsNorm),
  rope: kernel(references.rope),
  attention: kernel(references.attention),
  gatedActivation: kernel(references.gatedActivation),
  expertMatmul: kernel(references.expertMatmul),
};
