import * as fc from "fast-check";
import { expect, test } from "vitest";

import { BLOCK_SIZE, type BlockDType } from "../../blocks.ts";
import { decode, encode } from "../../dtype.ts";
import { assign, cast } from "../../ops.ts";
import { sizeOf, type Shape } from "../../shape.ts";
import { dense, tensor, type Tensor } from "../../tensor.ts";
import { anyFloat, blockDTypes, samples, shapes, sizes } from "../arbitraries.ts";
import { evaluate, forAll, type Subject } from "../harness.ts";
import { rowsOf } from "../reference.ts";
import { elementsOf, place, type Elements } from "../samples.ts";
import { expectClose, expectIdentical } from "../tolerance.ts";

const anyBlocks = fc.constantFrom<BlockDType>(...blockDTypes);

/** Shapes whose last axis is a whole number of blocks. */
const wholeBlocks = fc
  .tuple(shapes({ maxRank: 3, maxElements: 60 }), fc.integer({ min: 1, max: 4 }))
  .map(([shape, blocks]) => [...shape, blocks * BLOCK_SIZE]);

/** For each element, the largest magnitude among the 32 of its block. */
function blockExtremes(x: Elements): number[] {
  return rowsOf(x).flatMap((row) => {
    return row.map((_, i) => {
      const start = i - (i % BLOCK_SIZE);
      return Math.max(...row.slice(start, start + BLOCK_SIZE).map(Math.abs));
    });
  });
}

/** What is promised of `q8` and `q4` beyond the products that take them. */
export function blockTests(subject: Subject): void {
  readTests(subject);
  roundTests(subject);
  windowTests(subject);
}

function readTests(subject: Subject): void {
  const anything = fc
    .tuple(shapes({ minRank: 1, maxRank: 4 }), anyBlocks)
    .chain(([shape, dtype]) => samples(shape, dtype, { values: "any" }));
  test(
    "any view of blocks reads as scale times integer",
    forAll(anything, async (x) => {
      const { values } = await evaluate(() => place(subject(), x));
      expectIdentical(values, elementsOf(x).values);
    }),
  );

  const stored = fc.tuple(wholeBlocks, anyBlocks).chain(([shape, dtype]) => {
    return samples(shape, dtype, { values: "any", views: false });
  });
  test(
    "blocks keep their bits where their dtype stays",
    forAll(stored, async (x) => {
      const copies = (from: Tensor): Tensor => {
        const outer = dense(from.permute(...from.shape.map((_, axis) => axis)));
        return cast(cast(outer, x.dtype), "f32");
      };
      const { values, dtype } = await evaluate(() => copies(place(subject(), x)));
      expect(dtype).toBe("f32");
      expectIdentical(values, elementsOf(x).values);
    }),
  );

  test("memory() counts the bytes of blocks", () => {
    const before = subject().memory().bytes;
    using q8 = tensor(subject(), new Uint8Array(72), [2, 32], "q8");
    expect(subject().memory().bytes - before).toBe(72);
    using q4 = tensor(subject(), new Uint8Array(60), [96], "q4");
    expect(subject().memory().bytes - before).toBe(132);
    expect([q8.size, q4.size]).toEqual([64, 96]);
  });
}

function roundTests(subject: Subject): void {
  const floats = fc.tuple(wholeBlocks, anyFloat, anyBlocks).chain(([shape, from, to]) => {
    const values = fc.constantFrom("smooth" as const, "coarse" as const, "large" as const);
    return fc.record({
      x: values.chain((values) => samples(shape, from, { values })),
      to: fc.constant(to),
    });
  });
  test(
    "casting to blocks errs by the step of each block at most",
    forAll(floats, async ({ x, to }) => {
      const { values } = await evaluate(() => cast(place(subject(), x), to));
      const expected = elementsOf(x);
      expectClose(values, expected.values, {
        dtype: to,
        terms: 1,
        scale: blockExtremes(expected),
      });
    }),
  );

  test("blocks of zeros and of tiny numbers", async () => {
    const numbers = Array.from({ length: 96 }, (_, i) => (i < 32 ? 0 : i < 64 ? 2 ** -140 : 1e-30));
    for (const dtype of blockDTypes) {
      const { values } = await evaluate(() => cast(tensor(subject(), numbers, [96]), dtype));
      expectClose(values, numbers, { dtype, terms: 1, scale: numbers });
      expect(values.slice(0, 32).every((x) => x === 0)).toBe(true);
    }
  });
}

/** A block, where rows are written, and the rows. */
const appended = fc
  .record({
    rows: fc.integer({ min: 1, max: 6 }),
    heads: fc.integer({ min: 1, max: 3 }),
    width: sizes({ min: 1, max: 70 }),
    into: anyBlocks,
    from: fc.oneof(anyFloat, anyBlocks),
  })
  .chain(({ rows, heads, width, into, from }) =>
    fc.record({
      cache: samples([rows, heads, Math.ceil(width / 32) * 32], into, { views: false }),
      start: fc.nat(rows - 1),
      added: fc
        .integer({ min: 1, max: rows })
        .chain((count) => samples([count, heads, width], from)),
    }),
  );

function windowTests(subject: Subject): void {
  test(
    "rows are written into a cache of blocks, and nothing else",
    forAll(appended, async ({ cache, start, added }) => {
      const [rows, heads, whole] = cache.shape as [number, number, number];
      const [count, , width] = added.shape as [number, number, number];
      const first = Math.min(start, rows - count);
      const result = await evaluate(() => {
        const into = place(subject(), cache);
        assign(into.slice(0, first, first + count).slice(2, 0, width), place(subject(), added));
        return into;
      });
      const padded = padRows(elementsOf(added), whole);
      const expected = Array.from(elementsOf(cache).values);
      const scale = expected.map(() => 0);
      blockExtremes(padded).forEach((extreme, i) => {
        const at = first * heads * whole + i;
        // What lies beyond the window in its last block has no meaning any more.
        expected[at] = i % whole < width ? padded.values[i]! : result.values[at]!;
        scale[at] = extreme;
      });
      expectClose(result.values, expected, { dtype: cache.dtype, terms: 1, scale });
    }),
  );

  test("overlapping rows of blocks are moved as they are", async () => {
    const numbers = Array.from({ length: 5 * 64 }, (_, i) => Math.sin(i) * 2 ** (i % 7));
    for (const dtype of blockDTypes) {
      const held = decode(encode(numbers, dtype), dtype);
      const { values } = await evaluate(() => {
        const x = tensor(subject(), numbers, [5, 64], dtype);
        assign(x.slice(0, 0, 4), x.slice(0, 1, 5));
        return x;
      });
      expectIdentical(values, Float32Array.of(...held.slice(64), ...held.slice(4 * 64)));
    }
  });
}

/** Rows that are wider by zeros. */
function padRows(x: Elements, width: number): Elements {
  const shape: Shape = [...x.shape.slice(0, -1), width];
  const values = rowsOf(x).flatMap((row) => [...row, ...Array(width - row.length).fill(0)]);
  if (values.length !== sizeOf(shape)) throw new TypeError("padRows: a row is wider");
  return { shape, values };
}
