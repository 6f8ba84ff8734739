import * as fc from "fast-check";

import type { Backend, Kernels } from "../backend.ts";
import type { DType } from "../dtype.ts";
import { scope } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import type { Elements } from "./samples.ts";

/** The backend under test; it exists once the tests run, not yet when they are declared. */
export type Subject = () => Backend;

/** A tensor that was read and disposed of. */
export interface Outcome extends Elements {
  /** The element type it had. */
  readonly dtype: DType;
  /** Its elements, `f16` and `bf16` widened. */
  readonly values: Float32Array | Int32Array | Uint32Array;
}

/**
 * Runs operations in a scope, reads the result and disposes of everything.
 *
 * @param body - Makes its operands and returns the result.
 */
export async function evaluate(body: () => Tensor): Promise<Outcome> {
  return consume(scope<Tensor>(body));
}

/**
 * Reads a tensor and disposes of it.
 *
 * @param result - Any tensor.
 */
export async function consume(result: Tensor): Promise<Outcome> {
  const { dtype, shape } = result;
  try {
    const integers = dtype === "i32" || dtype === "u32";
    return { dtype, shape, values: await (integers ? result.readIntegers() : result.read()) };
  } finally {
    result.dispose();
  }
}

/** The share of their values that properties declared now are tried on. */
let share = 1;

/**
 * Declares properties that are tried on fewer values, for backends on which each costs more.
 *
 * @param part - From 0 to 1; every property is tried at least once.
 * @param declare - Declares them.
 */
export function withShareOfRuns(part: number, declare: () => void): void {
  const before = share;
  share = part;
  declare();
  share = before;
}

/**
 * The body of a test of a property. The seed and the smallest counterexample are printed when it fails.
 *
 * @param arbitrary - For which values.
 * @param expectFor - Throws where the property does not hold.
 * @param runs - How many values are tried, where the share of runs does not make them fewer.
 */
export function forAll<T>(
  arbitrary: fc.Arbitrary<T>,
  expectFor: (value: T) => Promise<void>,
  runs = 60,
): () => Promise<void> {
  const numRuns = Math.ceil(runs * share);
  return () => fc.assert(fc.asyncProperty(arbitrary, expectFor), { numRuns });
}

/**
 * The same backend without its fused kernels: core composes every fused operation. Tensors of the two do not mix.
 *
 * @param backend - Any backend; memory is shared with it.
 */
export function primitivesOnly<B>(backend: Backend<B>): Backend<B> {
  const { fill, copy, unary, binary, reduce, matmul, gather, topK } = backend.kernels;
  const kernels: Kernels<B> = { fill, copy, unary, binary, reduce, matmul, gather, topK };
  return { ...backend, kernels };
}
