import * as fc from "fast-check";
import { expect, test } from "vitest";

import type { DType } from "../../dtype.ts";
import { gather, topK } from "../../ops.ts";
import { tensor } from "../../tensor.ts";
import { anyDType, blockDTypes, cases, samples, sizes } from "../arbitraries.ts";
import { evaluate, forAll, type Subject } from "../harness.ts";
import * as reference from "../reference.ts";
import { elementsOf, place, type Sample } from "../samples.ts";
import { expectIdentical } from "../tolerance.ts";

/** `gather` and `topK`. */
export function selectionTests(subject: Subject): void {
  gatherTests(subject);
  topKTests(subject);
}

const indexDTypes = fc.constantFrom<DType>("i32", "u32");

async function expectGathered(subject: Subject, table: Sample, rows: Sample): Promise<void> {
  const result = await evaluate(() => gather(place(subject(), table), place(subject(), rows)));
  const batch = result.shape.slice(0, -2);
  const tables = reference.expand(elementsOf(table), [...batch, ...table.shape.slice(-2)]);
  const indices = reference.expand(elementsOf(rows), [...batch, rows.shape.at(-1)!]);
  expectIdentical(result.values, reference.gather(tables, indices).values);
}

function gatherTests(subject: Subject): void {
  // Coarse indices run from -8 or 0 up to 8 or 16: tables of 0 to 20 rows leave some of them outside.
  const single = fc
    .tuple(
      sizes({ max: 20 }),
      sizes({ max: 65 }),
      sizes({ max: 20 }),
      fc.oneof({ arbitrary: anyDType, weight: 5 }, fc.constantFrom(...blockDTypes)),
      indexDTypes,
    )
    .chain(([n, w, k, dtype, indices]) => {
      const table = samples([n, w], dtype, { values: "any" });
      return cases([table, samples([k], indices, { values: "coarse" })], fc.constant({}));
    });
  test(
    "gather takes rows, and zeros for rows outside the table",
    forAll(single, (x) => {
      return expectGathered(subject, x.operands[0]!, x.operands[1]!);
    }),
  );

  const batched = fc
    .record({
      batch: fc.array(sizes({ min: 1, max: 4 }), { minLength: 1, maxLength: 2 }),
      skips: fc.nat(3),
    })
    .chain(({ batch, skips }) => {
      const leading = skips === 0 ? batch.map(() => 1) : batch.slice(skips === 1 ? 1 : 0);
      const table = samples([...leading, 9, 5], "f32", { values: "any" });
      return fc.tuple(
        table,
        samples([...(skips === 3 ? [] : batch), 6], "i32", { values: "coarse" }),
      );
    });
  test(
    "gather over batches, broadcast and permuted",
    forAll(batched, ([table, rows]) => {
      return expectGathered(subject, table, rows);
    }),
  );

  test("gather of indices far outside gives zeros", async () => {
    for (const dtype of ["i32", "u32"] as const) {
      const far = dtype === "i32" ? [-1, 2 ** 31 - 1, -(2 ** 31), 1] : [3, 2 ** 31, 2 ** 32 - 1, 1];
      const { values } = await evaluate(() => {
        const table = tensor(subject(), [1, 2, 3, 4, 5, 6], [3, 2], "f16");
        return gather(table, tensor(subject(), far, [4], dtype));
      });
      expectIdentical(values, [0, 0, 0, 0, 0, 0, 3, 4]);
    }
  });
}

function topKTests(subject: Subject): void {
  const distinct = fc
    .tuple(fc.array(sizes({ max: 4 }), { maxLength: 2 }), sizes({ min: 1, max: 65 }), anyDType)
    .chain(([batch, n, dtype]) => {
      const values = fc.constantFrom("coarse" as const, "smooth" as const);
      const x = values.chain((values) => samples([...batch, n], dtype, { values }));
      return cases([x], fc.record({ k: fc.oneof(fc.integer({ min: 1, max: n }), fc.constant(n)) }));
    });
  test(
    "topK orders by value, then by index",
    forAll(distinct, async ({ operands: [x], attributes: { k } }) => {
      const result = await evaluate(() => topK(place(subject(), x!), k));
      expect(result.dtype).toBe("i32");
      expectIdentical(result.values, reference.topK(elementsOf(x!), k).values);
    }),
  );

  test("topK of equals gives the lowest indices in order", async () => {
    const { values } = await evaluate(() => topK(tensor(subject(), [0, -0, 0, 0, -1, 0], [6]), 5));
    expectIdentical(values, [0, 1, 2, 3, 5]);
  });

  test("topK of a long row finds the largest", async () => {
    const x: Sample = { dtype: "f32", shape: [2, 3000], values: "smooth", seed: 5 };
    const { values } = await evaluate(() => topK(place(subject(), x), 64));
    expectIdentical(values, reference.topK(elementsOf(x), 64).values);
  });

  test("topK ranks infinities and large negative numbers", async () => {
    const numbers = [-Infinity, -3e38, -1e30, Infinity, -2, 3e38];
    const { values } = await evaluate(() => topK(tensor(subject(), numbers, [6]), 6));
    expectIdentical(values, [3, 5, 4, 2, 1, 0]);
  });
}
