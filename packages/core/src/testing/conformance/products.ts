import * as fc from "fast-check";
import { test } from "vitest";

import { isBlock } from "../../blocks.ts";
import type { DType } from "../../dtype.ts";
import { full, matmul, max, sum } from "../../ops.ts";
import { tensor } from "../../tensor.ts";
import {
  anyDType,
  anyFloat,
  anyFloatOrBlocks,
  blockDTypes,
  cases,
  samples,
  shapes,
  sizes,
} from "../arbitraries.ts";
import { evaluate, forAll, type Subject } from "../harness.ts";
import * as reference from "../reference.ts";
import { elementsOf, place, type Sample } from "../samples.ts";
import { expectClose } from "../tolerance.ts";

/** `matmul` and `reduce`. */
export function productTests(subject: Subject): void {
  matmulTests(subject);
  reduceTests(subject);
}

/** Sizes of a product whose loops stay short. */
const extents = fc
  .record({ m: sizes({ max: 65 }), k: sizes({ max: 65 }), n: sizes({ max: 65 }) })
  .filter(({ m, k, n }) => m * k * n <= 20_000);

const batches = fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 2 });

async function expectProduct(subject: Subject, a: Sample, b: Sample): Promise<void> {
  const result = await evaluate(() => matmul(place(subject(), a), place(subject(), b)));
  const batch = result.shape.slice(0, -2);
  const left = reference.expand(elementsOf(a), [...batch, ...a.shape.slice(-2)]);
  const right = reference.expand(elementsOf(b), [...batch, ...b.shape.slice(-2)]);
  const expected = reference.matmul(left, right);
  const spread = isBlock(b.dtype) ? expected.spread : undefined;
  expectClose(result.values, expected.values, { ...expected, spread, dtype: a.dtype });
}

function matmulTests(subject: Subject): void {
  const single = fc
    .tuple(extents, anyFloat, anyFloatOrBlocks)
    .chain(([{ m, k, n }, left, right]) => {
      return fc.tuple(samples([m, k], left), samples([k, n], right));
    });
  test(
    "matmul of any views and float dtypes",
    forAll(single, ([a, b]) => expectProduct(subject, a, b), 80),
  );

  const batched = fc
    .tuple(extents, batches, fc.nat(2), fc.nat(2), anyFloat, anyFloatOrBlocks)
    .filter(([{ m, k, n }, batch]) => m * k * n * batch.reduce((x, y) => x * y, 1) <= 20_000)
    .chain(([{ m, k, n }, batch, leftSkips, rightSkips, dtype, weights]) => {
      // Either operand may lack leading axes or have them 1 wide.
      const left = batch.map((size) => (leftSkips === 1 ? 1 : size));
      const right = batch.map((size) => (rightSkips === 1 ? 1 : size));
      return fc.tuple(
        samples([...left.slice(leftSkips === 2 ? 1 : 0), m, k], dtype),
        samples([...right.slice(rightSkips === 2 ? 1 : 0), k, n], weights),
      );
    });
  test(
    "matmul over batches, broadcast and permuted",
    forAll(batched, ([a, b]) => expectProduct(subject, a, b)),
  );

  const row = fc
    .tuple(sizes({ max: 300 }), sizes({ max: 65 }), anyFloatOrBlocks)
    .chain(([k, n, dtype]) => fc.tuple(samples([1, k], "f32"), samples([k, n], dtype)));
  test(
    "matmul of one row",
    forAll(row, ([a, b]) => expectProduct(subject, a, b)),
  );

  // As linear layers use them: weights stored output first, whose last block may be cut.
  const linear = fc
    .tuple(
      fc.constantFrom(1, 2, 3, 5, 9, 40),
      fc.constantFrom(32, 40, 64, 96, 130, 320),
      sizes({ max: 65 }),
      fc.constantFrom(...blockDTypes),
    )
    .chain(([m, k, n, dtype]) => {
      const none = [0, 0];
      const layout = { order: [1, 0], before: none, after: none, repeat: [false, false] };
      const weights = samples([k, n], dtype).map((sample): Sample => ({ ...sample, layout }));
      return fc.tuple(samples([m, k], "f32"), weights);
    });
  test(
    "matmul with transposed blocks",
    forAll(linear, ([a, b]) => expectProduct(subject, a, b)),
  );

  for (const [m, k, n] of [
    [64, 64, 64],
    [65, 63, 65],
    [17, 130, 31],
    [3, 1000, 5],
    [130, 4, 129],
  ]) {
    test(`matmul ${m} x ${k} x ${n}, all four transpositions`, async () => {
      for (const [left, right] of [
        [false, false],
        [true, false],
        [false, true],
        [true, true],
      ]) {
        await expectProduct(subject, matrix(m!, k!, left!, 1), matrix(k!, n!, right!, 2));
      }
    });
  }

  test("matmul with an inner size of 0 gives zeros", async () => {
    const result = await evaluate(() => {
      full(subject(), [4, 5], 7).dispose(); // memory that is not zero may be handed out again
      return matmul(tensor(subject(), [], [4, 0]), tensor(subject(), [], [0, 5]));
    });
    expectClose(result.values, new Float32Array(20), { dtype: "f32" });
  });
}

function matrix(rows: number, columns: number, transposed: boolean, seed: number): Sample {
  const none = [0, 0];
  const order = transposed ? [1, 0] : [0, 1];
  const layout = { order, before: none, after: none, repeat: [false, false] };
  return { dtype: "f32", shape: [rows, columns], layout, values: "smooth", seed };
}

function reduceTests(subject: Subject): void {
  const rows = fc
    .tuple(shapes({ minRank: 1, maxRank: 4, maxElements: 1500 }), anyDType)
    .chain(([shape, dtype]) => cases([samples(shape, dtype)], fc.constant({})));
  test(
    "sum over the last axis",
    forAll(rows, async ({ operands: [x] }) => {
      const result = await evaluate(() => sum(place(subject(), x!)));
      const expected = reference.reduce("sum", elementsOf(x!), x!.dtype);
      expectClose(result.values, expected.values, { ...expected, dtype: x!.dtype });
    }),
  );

  const extremes = fc
    .tuple(shapes({ minRank: 1, maxRank: 4, maxElements: 1500 }), anyDType)
    .filter(([shape]) => shape.at(-1)! > 0)
    .chain(([shape, dtype]) => samples(shape, dtype, { values: "finite" }));
  test(
    "max over the last axis",
    forAll(extremes, async (x) => {
      const result = await evaluate(() => max(place(subject(), x)));
      const { values } = reference.reduce("max", elementsOf(x), x.dtype);
      expectClose(result.values, values, { dtype: x.dtype });
    }),
  );

  const wrapping = fc
    .tuple(sizes({ min: 1, max: 65 }), fc.constantFrom<DType>("i32", "u32"))
    .chain(([width, dtype]) => samples([3, width], dtype, { values: "finite" }));
  test(
    "sums of integers wrap around",
    forAll(wrapping, async (x) => {
      const result = await evaluate(() => sum(place(subject(), x)));
      expectClose(result.values, reference.reduce("sum", elementsOf(x), x.dtype).values, {
        dtype: x.dtype,
      });
    }),
  );

  test("long rows", async () => {
    const x: Sample = { dtype: "f32", shape: [2, 5000], values: "smooth", seed: 3 };
    const result = await evaluate(() => sum(place(subject(), x)));
    const expected = reference.reduce("sum", elementsOf(x), "f32");
    expectClose(result.values, expected.values, { ...expected, dtype: "f32" });
  });
}
