import { fc, test as prop } from "@fast-check/vitest";
import {
  fromF16Bits,
  isBlock,
  matmul,
  tensor,
  type Backend,
  type DType,
  type Tensor,
} from "@transmla/core";
import {
  elementsOf,
  evaluate,
  expectClose,
  expectIdentical,
  place,
  type Sample,
} from "@transmla/core/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { cpuBackend } from "../src/index.ts";
import { backendIn, modes } from "./modes.ts";

// Sizes beyond the blocks and tiles of the kernels, which the conformance suite does not reach.

/** `[rows, columns]`, stored in order or column by column. */
function matrix(
  rows: number,
  columns: number,
  dtype: DType,
  seed: number,
  byColumn = false,
): Sample {
  const shape = [rows, columns];
  const layout = { order: [1, 0], before: [0, 1], after: [2, 0], repeat: [false, false] };
  return { dtype, shape, values: "smooth", seed, ...(byColumn && { layout }) };
}

function product(a: Sample, b: Sample): number[] {
  const [m, k] = a.shape as [number, number];
  const n = b.shape[1]!;
  const [left, right] = [elementsOf(a), elementsOf(b)].map(({ values }) =>
    Float64Array.from(values),
  );
  return Array.from({ length: m * n }, (_, at) => {
    const column = at % n;
    const row = left!.subarray(((at - column) / n) * k).subarray(0, k);
    return row.reduce((sum, x, p) => sum + x * right![p * n + column]!, 0);
  });
}

async function checkProduct(backend: Backend, a: Sample, b: Sample): Promise<void> {
  const { values } = await evaluate(() => matmul(place(backend, a), place(backend, b)));
  const expected = product(a, b);
  const [, k] = a.shape as [number, number];
  const spread = isBlock(b.dtype) ? expected.map(() => 4 * k) : undefined;
  expectClose(values, expected, { dtype: a.dtype, terms: k, scale: 4, spread });
}

const floats = fc.constantFrom<DType>("f32", "f16", "bf16");
const stored = fc.constantFrom<DType>("f32", "f16", "bf16", "q8", "q4");

describe.each(Object.entries(modes))("products: %s", (_, mode) => {
  let backend: Backend;
  beforeAll(async () => {
    backend = await backendIn(mode);
  });
  afterAll(() => {
    expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
    backend.dispose();
  });

  // Blocks are 192 or 96 rows, 512 or 256 deep and 512 columns wide; up to 4 or 6 rows or columns are not packed.
  test.each([
    [97, 257, 33],
    [7, 258, 515],
    [194, 515, 9],
    [2, 260, 520],
    [101, 270, 4],
    [3, 1030, 70],
  ])("[%i,%i] times [%i columns]", async (m, k, n) => {
    for (const [left, right] of [
      ["f32", "f32"],
      ["f32", "bf16"],
      ["f16", "f32"],
      ["bf16", "f16"],
      ["f32", "q8"],
      ["bf16", "q4"],
    ] as const) {
      for (const byColumn of [false, true]) {
        const a = matrix(m, k, left, 1, !byColumn && m % 2 === 1);
        await checkProduct(backend, a, matrix(k, n, right, 2, byColumn));
      }
    }
  });

  prop.prop(
    {
      m: fc.integer({ min: 0, max: 20 }),
      k: fc.integer({ min: 0, max: 40 }),
      n: fc.integer({ min: 0, max: 40 }),
      dtypes: fc.tuple(floats, stored),
      byColumn: fc.tuple(fc.boolean(), fc.boolean()),
    },
    { numRuns: 200 },
  )("of all sizes about a tile", async ({ m, k, n, dtypes, byColumn }) => {
    const a = matrix(m, k, dtypes[0], 3, byColumn[0]);
    await checkProduct(backend, a, matrix(k, n, dtypes[1], 4, byColumn[1]));
  });

  test("a weight that is shared by a batch", async () => {
    const a: Sample = { dtype: "f32", shape: [3, 4, 50, 20], values: "smooth", seed: 1 };
    const w = matrix(20, 30, "f32", 2);
    const { values } = await evaluate(() => matmul(place(backend, a), place(backend, w)));
    const rows: Sample = { ...a, shape: [600, 20] };
    expectClose(values, product(rows, w), { dtype: "f32", terms: 20, scale: 4 });
  });

  test("a scratch that makes the memory grow", async () => {
    const fresh = await backendIn(mode);
    await checkProduct(fresh, matrix(64, 300, "bf16", 1), matrix(300, 64, "bf16", 2));
    fresh.dispose();
  });

  // Row counts that take every kernel: inner products, combinations of rows, packed panels.
  for (const [rows, byColumn] of [
    [1, true],
    [2, true],
    [4, true],
    [1, false],
    [2, false],
    [4, false],
    [7, true],
    [7, false],
  ] as const) {
    const order = byColumn ? "columns" : "rows";
    test(`every f16 pattern as a weight stored by ${order}, for ${rows} rows`, async () => {
      // One finite or infinite pattern in each column; the other weights of the column are 0.
      const patterns = Array.from({ length: 0x7c01 }, (_, i) => [i, i | 0x8000]).flat();
      const n = patterns.length;
      const bits = new Uint16Array(10 * n);
      patterns.forEach((pattern, j) => {
        const p = j % 10;
        bits[byColumn ? j * 10 + p : p * n + j] = pattern;
      });
      const { values } = await evaluate(() => {
        const stored = tensor(backend, bits, byColumn ? [n, 10] : [10, n], "f16");
        const ones = tensor(backend, new Float32Array(rows * 10).fill(1), [rows, 10]);
        return matmul(ones, byColumn ? stored.transpose() : stored);
      });
      const expected = patterns.map((pattern) => fromF16Bits(pattern) + 0);
      expectIdentical(values.slice(-n), Float32Array.from(expected));
    });
  }

  test("what is not a number or infinite", async () => {
    const run = async (rows: number, weight: number): Promise<number[]> => {
      const x = (): Tensor => tensor(backend, new Float32Array(rows * 9).fill(1), [rows, 9]);
      const { values } = await evaluate(() => {
        return matmul(x(), tensor(backend, [...Array(8).fill(0), weight], [9, 1], "bf16"));
      });
      return [...values];
    };
    for (const rows of [1, 3, 8]) {
      expect(await run(rows, Number.NaN)).toEqual(Array(rows).fill(Number.NaN));
      expect(await run(rows, -Infinity)).toEqual(Array(rows).fill(-Infinity));
    }
  });
});

test("deterministic products are those of rounded products and sums", async () => {
  const backend = await cpuBackend({ deterministic: true });
  // (1 + 2^-12)^2 - (1 + 2^-11) is 2^-24 exactly, and 0 when the square is rounded first.
  const x = 1 + 2 ** -12;
  const { values } = await evaluate(() => {
    const a = tensor(backend, [-1, x], [1, 2]);
    return matmul(a, tensor(backend, [1 + 2 ** -11, x], [2, 1]));
  });
  expect([...values]).toEqual([0]);
  backend.dispose();
});
