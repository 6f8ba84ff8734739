import { fc, test as prop } from "@fast-check/vitest";
import { ArgumentError } from "@transmla/core";
import { describe, expect, test } from "vitest";

import type { StoredDType } from "../../src/checkpoint/elements.ts";
import { blobFolder } from "../../src/checkpoint/folder.ts";
import { memoryOutput } from "../../src/checkpoint/output.ts";
import { openCheckpoint } from "../../src/checkpoint/shards.ts";
import { memoryTensors } from "../../src/checkpoint/tensors.ts";
import { createCheckpoint } from "../../src/checkpoint/write.ts";
import { models, planned, valuesOf, written } from "./files.ts";

describe("round trips", () => {
  prop.prop([models, fc.integer({ min: 1, max: 64 })])(
    "any tensors, in shards of any size, read as memoryTensors of the same values",
    async (tensors, maxShardBytes) => {
      const source = await openCheckpoint(blobFolder(await written(tensors, { maxShardBytes })));
      const expected = memoryTensors(new Map(tensors.map((t) => [t.name, t])));
      expect(source.tensors.size).toBe(tensors.length);
      for (const { name, dtype, shape } of tensors) {
        expect(source.tensors.get(name)).toMatchObject({ name, dtype, shape });
        expect(await source.bytes(name)).toEqual(await expected.bytes(name));
        expect(await source.numbers(name)).toEqual(await expected.numbers(name));
      }
    },
  );

  prop.prop([models])("bytes that are read and written again are the same", async (tensors) => {
    const files = await written(tensors);
    const source = await openCheckpoint(blobFolder(files));
    const output = memoryOutput();
    const writer = await createCheckpoint(output, tensors);
    for (const { name } of tensors.toReversed()) {
      await writer.writeBytes(name, await source.bytes(name));
    }
    await writer.close();
    await output.commit();
    const [first, second] = await Promise.all(
      [files, output.files].map(async (f) => f.get("model.safetensors")!.arrayBuffer()),
    );
    expect(second).toEqual(first);
  });

  const exactly = (["F64", "I32", "I64", "U8", "BOOL"] as const).map(
    (dtype) => [dtype, valuesOf[dtype]] as const,
  );
  test.each(exactly)("%s keeps every value", async (dtype, arbitrary) => {
    const values = fc.sample(arbitrary, 500);
    const source = memoryTensors(new Map([["a", { dtype, shape: [500], values }]]));
    // Integers have no negative zero.
    const expected = dtype === "F64" ? values : values.map((x) => x + 0);
    expect(Array.from(await source.numbers("a"))).toEqual(expected);
  });

  test("values beyond one chunk arrive in order", async () => {
    const count = (1 << 20) + 3;
    const values = Float64Array.from({ length: count }, (_, i) => i);
    const files = await written([{ ...planned("a", [count]), values }]);
    const source = await openCheckpoint(blobFolder(files));
    const read = await source.numbers("a");
    expect(read.length).toBe(count);
    expect(read.every((x, i) => x === i)).toBe(true);
  });
});

describe("rounding", () => {
  const stored = async (dtype: StoredDType, values: readonly number[]) => {
    const source = memoryTensors(new Map([["a", { dtype, shape: [values.length], values }]]));
    return Array.from(await source.numbers("a"));
  };

  test("happens once, to nearest even", async () => {
    const half = 2 ** -8; // half a bf16 step at 1
    const dust = 2 ** -40; // lost in f32
    expect(
      await stored("BF16", [1 + half, 1 + half + dust, 1 + 3 * half, 1 + 3 * half - dust]),
    ).toEqual([1, 1 + 2 * half, 1 + 4 * half, 1 + 2 * half]);
    const step = 2 ** -11; // half an f16 step at 1
    expect(
      await stored("F16", [1 + step, 1 + step + dust, 1 + 3 * step, 1 + 3 * step - dust]),
    ).toEqual([1, 1 + 2 * step, 1 + 4 * step, 1 + 2 * step]);
    expect(await stored("F32", [1 + 2 ** -24, 1 + 2 ** -24 + 2 ** -50])).toEqual([1, 1 + 2 ** -23]);
  });

  /** Significant bits, and the exponent of the smallest number above zero. */
  const precision = {
    F32: { digits: 24, least: -149 },
    F16: { digits: 11, least: -24 },
    BF16: { digits: 8, least: -133 },
  };
  prop.prop([
    fc.constantFrom("F32" as const, "F16" as const, "BF16" as const),
    fc.double({ min: -65504, max: 65504, noNaN: true }),
  ])("leaves no neighbour nearer", async (dtype, x) => {
    const [y = NaN] = await stored(dtype, [x]);
    const { digits, least } = precision[dtype];
    const exponent = x === 0 ? 0 : Math.floor(Math.log2(Math.abs(x)));
    const step = 2 ** Math.max(exponent - digits + 1, least);
    expect(Math.abs(x - y)).toBeLessThanOrEqual(step / 2);
  });

  test.each([
    ["F16", 65520, "65520 does not fit in F16"],
    ["BF16", 3.4e38, "3.4e+38 does not fit in BF16"],
    ["F32", -1e39, "-1e+39 does not fit in F32"],
    ["I32", 1.5, "1.5 does not fit in I32"],
    ["I32", 2 ** 31, "2147483648 does not fit in I32"],
    ["I64", 2 ** 60, "1152921504606847000 does not fit in I64"],
    ["I64", Infinity, "Infinity does not fit in I64"],
    ["U8", -1, "-1 does not fit in U8"],
    ["U8", NaN, "NaN does not fit in U8"],
    ["BOOL", 2, "2 is neither 0 nor 1"],
  ] as const)("%s refuses %d", async (dtype, value, problem) => {
    const writer = await createCheckpoint(memoryOutput(), [planned("a", [2], dtype)]);
    await expect(writer.write("a", [0, value])).rejects.toThrow(
      new ArgumentError(`write: tensor "a", element 1: ${problem}`),
    );
  });

  test("infinities that are meant are kept", async () => {
    expect(await stored("F16", [Infinity, -Infinity])).toEqual([Infinity, -Infinity]);
  });
});

describe("memoryTensors", () => {
  test("refuses values that do not fill the shape or fit the type", () => {
    const make = (dtype: StoredDType, values: readonly number[]) => () =>
      memoryTensors(new Map([["a", { dtype, shape: [2], values }]]));
    expect(make("F32", [1])).toThrow(
      new ArgumentError('memoryTensors: tensor "a": 1 values do not fill [2]'),
    );
    expect(make("F16", [1, 1e6])).toThrow(
      new ArgumentError('memoryTensors: tensor "a", element 1: 1000000 does not fit in F16'),
    );
  });

  test("hands out copies", async () => {
    const source = memoryTensors(new Map([["a", { dtype: "U8", shape: [1], values: [7] }]]));
    (await source.bytes("a"))[0] = 1;
    expect(await source.numbers("a")).toEqual(Float64Array.of(7));
  });
});
