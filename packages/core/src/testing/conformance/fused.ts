import * as fc from "fast-check";
import { test } from "vitest";

import type { Backend, FusedOps, Ops } from "../../backend.ts";
import { isBlock } from "../../blocks.ts";
import { expertMatmul, gatedActivation, rmsNorm, rope, softmax } from "../../fused.ts";
import type { Tensor } from "../../tensor.ts";
import {
  anyFloat,
  anyFloatOrBlocks,
  cases,
  samples,
  shapes,
  sizes,
  type Case,
} from "../arbitraries.ts";
import { evaluate, primitivesOnly, forAll, type Outcome, type Subject } from "../harness.ts";
import * as reference from "../reference-fused.ts";
import type { Expected, ExpectedProduct } from "../reference.ts";
import { elementsOf, place, type Elements } from "../samples.ts";
import { expectClose, type Closeness } from "../tolerance.ts";

/** How a fused operation is tested. */
export interface FusedTest<K extends keyof FusedOps> {
  /** The operation. */
  readonly name: K;
  /** What is particular about these cases. */
  readonly title?: string;
  /** Operands and attributes. */
  readonly cases: fc.Arbitrary<Case<Ops[K]>>;
  /** Runs the operation. */
  readonly run: (operands: readonly Tensor[], attributes: Ops[K]) => Tensor;
  /** What it should give, from the same operands. */
  readonly expected: (
    operands: readonly Elements[],
    attributes: Ops[K],
  ) => Expected | ExpectedProduct;
}

/**
 * Declares two tests: what core composes from the backend's primitives matches a reference in f64; and the backend's own
 * kernel, where it has one, matches what core composes. A kernel may decline: then core composes, and all is well.
 */
export function fusedTest<K extends keyof FusedOps>(subject: Subject, fused: FusedTest<K>): void {
  const { name, title = "", run, expected } = fused;
  const outcome = (backend: Backend, { operands, attributes }: Case<Ops[K]>): Promise<Outcome> =>
    evaluate(() => {
      const tensors = operands.map((operand) => place(backend, operand));
      return run(tensors, attributes);
    });
  const reference = ({
    operands,
    attributes,
  }: Case<Ops[K]>): Expected & Pick<Closeness, "spread"> => {
    const result = expected(operands.map(elementsOf), attributes);
    const spread = operands.some(({ dtype }) => isBlock(dtype)) && "spread" in result;
    return { ...result, spread: spread ? result.spread : undefined };
  };

  test(
    `${name}${title} as composed matches the reference`,
    forAll(fused.cases, async (case_) => {
      const { values, dtype } = await outcome(primitivesOnly(subject()), case_);
      const expected = reference(case_);
      expectClose(values, expected.values, { ...expected, dtype });
    }),
  );

  test(`${name}${title} by the backend's kernel matches the composition`, async ({ skip }) => {
    skip(subject().kernels[name] === undefined, "the backend has no such kernel");
    const expectMatch = async (case_: Case<Ops[K]>): Promise<void> => {
      const own = await outcome(subject(), case_);
      const composed = await outcome(primitivesOnly(subject()), case_);
      const { terms, scale, spread } = reference(case_);
      // Both sides carry the rounding errors of their sums.
      expectClose(own.values, composed.values, {
        dtype: own.dtype,
        terms: 2 * terms,
        scale,
        spread: spread && Array.from(spread, (x) => 2 * x),
      });
    };
    await forAll(fused.cases, expectMatch)();
  });
}

/** Every fused operation but attention. */
export function fusedTests(subject: Subject): void {
  softmaxTests(subject);
  rmsNormTests(subject);
  ropeTests(subject);
  gatedActivationTests(subject);
  expertMatmulTests(subject);
}

function softmaxTests(subject: Subject): void {
  const of = (values: "smooth" | "large"): fc.Arbitrary<Case> =>
    fc
      .tuple(shapes({ minRank: 1, maxRank: 4 }), anyFloat)
      .chain(([shape, dtype]) => cases([samples(shape, dtype, { values })], fc.constant({})));
  const softmaxes = {
    name: "softmax",
    run: ([x]: readonly Tensor[]) => softmax(x!),
    expected: ([x]: readonly Elements[]) => reference.softmax(x!),
  } as const;
  fusedTest(subject, { ...softmaxes, cases: of("smooth") });
  fusedTest(subject, { ...softmaxes, title: " of large numbers", cases: of("large") });
}

function rmsNormTests(subject: Subject): void {
  const attributes = fc.record({
    eps: fc.constantFrom(1e-6, 1e-5, 0.5),
    offset: fc.constantFrom(0, 1),
  });
  fusedTest(subject, {
    name: "rmsNorm",
    cases: fc
      .tuple(shapes({ minRank: 1, maxRank: 4 }), anyFloat, anyFloat)
      .chain(([shape, dtype, weight]) => {
        return cases([samples(shape, dtype), samples(shape.slice(-1), weight)], attributes);
      }),
    run: ([x, weight], attributes) => rmsNorm(x!, weight!, attributes),
    expected: ([x, weight], attributes) => reference.rmsNorm(x!, weight!, attributes),
  });
}

function ropeTests(subject: Subject): void {
  const extents = fc.record({
    T: sizes({ max: 9 }),
    H: sizes({ min: 1, max: 5 }),
    half: sizes({ min: 1, max: 33 }),
  });
  fusedTest(subject, {
    name: "rope",
    cases: fc.tuple(extents, anyFloat, anyFloat).chain(([{ T, H, half }, dtype, table]) => {
      const angles = samples([T, half], table);
      const x = samples([T, H, 2 * half], dtype);
      return cases([x, angles, angles], fc.record({ interleaved: fc.boolean() }));
    }),
    run: ([x, cos, sin], attributes) => rope(x!, cos!, sin!, attributes),
    expected: ([x, cos, sin], { interleaved }) => reference.rope(x!, cos!, sin!, interleaved),
  });
}

function gatedActivationTests(subject: Subject): void {
  const of = (values: "smooth" | "large"): fc.Arbitrary<Case<Ops["gatedActivation"]>> =>
    fc.tuple(shapes({ maxRank: 4 }), anyFloat).chain(([shape, dtype]) => {
      const operands = [samples(shape, dtype, { values }), samples(shape, dtype)];
      return cases(operands, fc.record({ fn: fc.constantFrom("silu" as const, "gelu" as const) }));
    });
  fusedTest(subject, {
    name: "gatedActivation",
    cases: fc.oneof(of("smooth"), of("large")),
    run: ([gate, up], { fn }) => gatedActivation(gate!, up!, fn),
    expected: ([gate, up], { fn }) => reference.gatedActivation(gate!, up!, fn),
  });
}

function expertMatmulTests(subject: Subject): void {
  const extents = fc.record({
    E: fc.integer({ min: 1, max: 5 }),
    m: sizes({ max: 17 }),
    n: sizes({ max: 33 }),
    ids: fc.array(sizes({ max: 4 }), { minLength: 1, maxLength: 2 }),
    shared: fc.boolean(),
    indices: fc.constantFrom("i32" as const, "u32" as const),
  });
  fusedTest(subject, {
    name: "expertMatmul",
    cases: fc
      .tuple(extents, anyFloat, anyFloatOrBlocks)
      .chain(([{ E, m, n, ids, shared, indices }, dtype, weight]) => {
        const rows = shared ? [...ids.slice(0, -1), 1] : ids;
        const operands = [
          samples([...rows, n], dtype),
          samples([E, m, n], weight),
          samples(ids, indices, { values: { below: E } }),
        ];
        return cases(operands, fc.constant({}));
      }),
    run: ([x, weights, ids]) => expertMatmul(x!, weights!, ids!),
    expected: ([x, weights, ids]) => reference.expertMatmul(x!, weights!, ids!),
  });
}
