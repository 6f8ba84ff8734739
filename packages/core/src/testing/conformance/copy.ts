import * as fc from "fast-check";
import { test } from "vitest";

import { apply } from "../../apply.ts";
import { decode, encode, type DType } from "../../dtype.ts";
import { assign } from "../../ops.ts";
import { scope } from "../../scope.ts";
import { sizeOf, type Shape } from "../../shape.ts";
import { dense, tensor, type Tensor } from "../../tensor.ts";
import { anyDType, samples, shapes } from "../arbitraries.ts";
import { consume, evaluate, forAll, type Subject } from "../harness.ts";
import { expand } from "../reference.ts";
import { elementsOf, indices, place, type Sample } from "../samples.ts";
import { expectClose, expectIdentical } from "../tolerance.ts";

const manyAxes = fc.oneof(
  shapes({ maxRank: 3 }),
  shapes({ minRank: 4, maxRank: 6, maxSize: 5, maxElements: 600 }),
);

const isInteger = (dtype: DType): boolean => dtype === "i32" || dtype === "u32";

/** `copy`: views read and made dense, windows, accumulation. */
export function copyTests(subject: Subject): void {
  viewTests(subject);
  windowTests(subject);
  overlapTests(subject);
  accumulateTests(subject);
}

function viewTests(subject: Subject): void {
  const anything = fc
    .tuple(manyAxes, anyDType)
    .chain(([shape, dtype]) => samples(shape, dtype, { values: "any" }));
  test(
    "reading a view gives its elements in row-major order",
    forAll(anything, async (x) => {
      const { values } = await evaluate(() => place(subject(), x));
      expectIdentical(values, elementsOf(x).values);
    }),
  );
  test(
    "a dense copy holds the elements of the view",
    forAll(anything, async (x) => {
      const { values } = await evaluate(() => dense(place(subject(), x)));
      expectIdentical(values, elementsOf(x).values);
    }),
  );
  test(
    "reshaping keeps the elements in order",
    forAll(anything, async (x) => {
      const { values } = await evaluate(() => place(subject(), x).reshape([sizeOf(x.shape)]));
      expectIdentical(values, elementsOf(x).values);
    }),
  );
}

/** A block, the window of it that is written, and what is written there. */
interface Assignment {
  readonly block: Sample;
  readonly start: Shape;
  readonly from: Sample;
}

const assignments: fc.Arbitrary<Assignment> = fc
  .tuple(shapes({ minRank: 1, maxRank: 4, maxSize: 17, maxElements: 800 }), anyDType, anyDType)
  .chain(([shape, into, from]) => {
    const ranges = shape.map((size) => fc.tuple(fc.nat(size), fc.nat(size)));
    return fc.tuple(fc.tuple(...ranges), fc.constant({ shape, into, from }));
  })
  .chain(([ranges, { shape, into, from }]) => {
    const start = ranges.map(([a, b]) => Math.min(a, b));
    const window = ranges.map(([a, b]) => Math.abs(a - b));
    // Small integers that every dtype holds, so that the expectation is exact.
    const values = "coarse";
    const source = isInteger(into) && !isInteger(from) ? into : from;
    return fc.record({
      block: samples(shape, into, { values, views: false }),
      start: fc.constant(start),
      from: samples(window, source, { values }),
    });
  });

/** The window of the block that begins at `start`. */
function windowOf(block: Tensor, start: Shape, shape: Shape): Tensor {
  return shape.reduce(
    (view, size, axis) => view.slice(axis, start[axis]!, start[axis]! + size),
    block,
  );
}

function windowTests(subject: Subject): void {
  const expectWritten = async (
    { block, start, from }: Assignment,
    accumulate: boolean,
  ): Promise<void> => {
    const result = await evaluate(() => {
      const into = place(subject(), block);
      const window = windowOf(into, start, from.shape);
      const source = place(subject(), from);
      if (accumulate) apply("copy", [source], { accumulate }, { into: window });
      else assign(window, source);
      return into;
    });
    const expected = Array.from(elementsOf(block).values);
    const source = elementsOf(from).values;
    indices(from.shape).forEach((index, i) => {
      const at = block.shape.reduce((at, size, axis) => at * size + start[axis]! + index[axis]!, 0);
      expected[at] = (accumulate ? expected[at]! : 0) + source[i]!;
    });
    expectIdentical(result.values, decode(encode(expected, block.dtype), block.dtype));
  };
  test(
    "assign writes a window and nothing else",
    forAll(assignments, (x) => expectWritten(x, false)),
  );
  test(
    "copy with accumulate adds to a window and to nothing else",
    forAll(assignments, (x) => expectWritten(x, true)),
  );

  test("assign writes through permuted windows and broadcasts", async () => {
    const result = await evaluate(() => {
      const block = tensor(subject(), new Float32Array(24), [2, 3, 4]);
      assign(block.permute(2, 0, 1).slice(0, 1, 3), tensor(subject(), [1, 2, 3], [3]));
      return block;
    });
    const row = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const expected = row.map((_, i) => (i % 4 === 1 || i % 4 === 2 ? 1 + Math.floor(i / 4) : 0));
    expectIdentical(result.values, [...expected, ...expected]);
  });
}

function overlapTests(subject: Subject): void {
  test("assign copies between overlapping views of one tensor, in both directions", async () => {
    const numbers = Array.from({ length: 40 }, (_, i) => i);
    const shifted = async (to: number, from: number): Promise<ArrayLike<number>> => {
      const { values } = await evaluate(() => {
        const x = tensor(subject(), numbers, [40]);
        assign(x.slice(0, to, to + 35), x.slice(0, from, from + 35));
        return x;
      });
      return values;
    };
    expectIdentical(await shifted(2, 0), [0, 1, ...numbers.slice(0, 35), 37, 38, 39]);
    expectIdentical(await shifted(0, 2), [...numbers.slice(2, 37), 35, 36, 37, 38, 39]);
  });

  test("assign transposes a square in place", async () => {
    const numbers = Array.from({ length: 81 }, (_, i) => i);
    const { values } = await evaluate(() => {
      const x = tensor(subject(), numbers, [9, 9], "bf16");
      assign(x, x.transpose());
      return x;
    });
    expectIdentical(
      values,
      numbers.map((i) => (i % 9) * 9 + Math.floor(i / 9)),
    );
  });
}

function accumulateTests(subject: Subject): void {
  const arbitrary = fc
    .tuple(shapes({ minRank: 1, maxRank: 4 }), fc.constantFrom<DType>("f32", "f16", "bf16"))
    .chain(([shape, dtype]) =>
      fc.tuple(samples(shape, dtype, { views: false }), samples(shape, dtype)),
    );
  test(
    "copy with accumulate adds reals in f32",
    forAll(arbitrary, async ([into, from]) => {
      const result = scope(() => {
        const sum = place(subject(), into);
        return apply("copy", [place(subject(), from)], { accumulate: true }, { into: sum });
      });
      const { values } = await consume(result);
      const [a, b] = [elementsOf(into).values, expand(elementsOf(from), into.shape).values];
      const expected = Array.from(a, (x, i) => x + b[i]!);
      const scale = Array.from(a, (x, i) => Math.abs(x) + Math.abs(b[i]!));
      expectClose(values, expected, { dtype: into.dtype, terms: 2, scale });
    }),
  );
}
