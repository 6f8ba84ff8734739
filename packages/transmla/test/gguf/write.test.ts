// GGUF files that are written are read back as they were given.
import { fc, test as prop } from "@fast-check/vitest";
import { ArgumentError, StateError } from "@transmla/core";
import { expect, test } from "vitest";

import { blobFolder, type ByteSource } from "../../src/checkpoint/folder.ts";
import { readGguf } from "../../src/checkpoint/gguf/file.ts";
import {
  f32,
  flag,
  floats,
  integers,
  text,
  texts,
  u32,
} from "../../src/checkpoint/gguf/metadata.ts";
import { writableTypes, type GgufWritableType } from "../../src/checkpoint/gguf/types.ts";
import {
  createGguf,
  type GgufWriter,
  type PlannedGgufTensor,
} from "../../src/checkpoint/gguf/write.ts";
import { memoryOutput } from "../../src/checkpoint/output.ts";
import { elementCount } from "../../src/checkpoint/tensors.ts";
import { readWhole } from "./writer.ts";

type Metadata = ReadonlyMap<string, Uint8Array>;

/** Writes a file in memory and opens it. */
async function file(
  metadata: Metadata,
  plan: readonly PlannedGgufTensor[],
  write: (writer: GgufWriter) => Promise<unknown>,
): Promise<ByteSource> {
  const output = memoryOutput();
  const writer = await createGguf(await output.create("x.gguf"), metadata, plan);
  await write(writer);
  await writer.close();
  await output.commit();
  return blobFolder(output.files).open("x.gguf");
}

async function* inPieces(values: readonly number[], size: number): AsyncGenerator<Float64Array> {
  for (let at = 0; at < values.length; at += size) {
    yield Float64Array.from(values.slice(at, at + size));
  }
}

const value = fc.double({ min: -100, max: 100, noNaN: true });
const filled = fc
  .record({
    name: fc.string({ unit: "binary", maxLength: 12 }),
    type: fc.constantFrom<GgufWritableType>("F32", "F16", "BF16", "Q8_0"),
    rows: fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 2 }),
    blocks: fc.integer({ min: 1, max: 3 }),
  })
  .chain(({ name, type, rows, blocks }) => {
    const shape = [...rows, 32 * blocks];
    const length = elementCount(shape);
    return fc
      .array(value, { minLength: length, maxLength: length })
      .map((values) => ({ name, type, shape, values }));
  });

/** Keys with values of each kind, in the form in which they are written and in that in which they are read. */
const entries = fc.uniqueArray(
  fc.tuple(
    fc.string({ unit: "binary" }),
    fc.oneof(
      fc.nat().map((x) => [u32(x), x] as const),
      fc.float({ noNaN: true }).map((x) => [f32(x), x] as const),
      fc.boolean().map((x) => [flag(x), x] as const),
      fc.string({ unit: "binary" }).map((x) => [text(x), x] as const),
      fc.array(fc.string({ unit: "binary" })).map((x) => [texts(x), x] as const),
      fc.array(fc.integer()).map((x) => [integers(x), x] as const),
      fc.array(fc.float({ noNaN: true })).map((x) => [floats(x), x] as const),
    ),
  ),
  { selector: ([key]) => key },
);

prop.prop([
  entries,
  fc.uniqueArray(filled, { selector: ({ name }) => name, maxLength: 4 }),
  fc.integer({ min: 1, max: 3 }),
])("metadata and tensors read back as they were rounded", async (keys, tensors, size) => {
  const metadata = new Map(
    keys.filter(([key]) => key !== "general.alignment").map(([key, [bytes]]) => [key, bytes]),
  );
  const errors = new Map<string, number>();
  const opened = await file(metadata, tensors, async (writer) => {
    for (const { name, values } of tensors.toReversed()) {
      errors.set(name, await writer.write(name, inPieces(values, 32 * size)));
    }
  });
  const header = await readGguf(opened);
  expect([...header.metadata]).toEqual(
    keys.filter(([key]) => key !== "general.alignment").map(([key, [, read]]) => [key, read]),
  );
  expect([...header.tensors.keys()]).toEqual(tensors.map(({ name }) => name));
  for (const { name, type, shape, values } of tensors) {
    const stored = header.tensors.get(name)!;
    expect([stored.type.name, stored.shape]).toEqual([type, shape]);
    const expected = new Float64Array(values.length);
    const format = writableTypes[type];
    format.dequantize(format.quantize(Float64Array.from(values)), expected);
    const read = await readWhole(opened, stored);
    expect(read).toEqual(expected);
    const sum = (x: readonly number[]): number => x.reduce((total, y) => total + y * y, 0);
    const error = Math.sqrt(sum(values.map((x, i) => x - read[i]!)) / sum(values)) || 0;
    expect(errors.get(name)).toBeCloseTo(error, 12);
  }
});

prop.prop([fc.array(value, { minLength: 32, maxLength: 32 })])(
  "Q8_0 is off by half a step of a 127th of the largest value, and by the rounding of that step",
  (values) => {
    const stored = new Float64Array(32);
    const format = writableTypes.Q8_0;
    format.dequantize(format.quantize(Float64Array.from(values)), stored);
    const step = Math.max(...values.map(Math.abs)) / 127;
    // f16 rounds by 2^-11, or where it is subnormal by 2^-25.
    const rounding = 127 * Math.max(step * 2 ** -11, 2 ** -25);
    values.forEach((x, i) =>
      expect(Math.abs(x - stored[i]!)).toBeLessThanOrEqual(step * (0.5 + 1e-9) + rounding),
    );
  },
);

const plan: readonly PlannedGgufTensor[] = [{ name: "a", type: "F16", shape: [2] }];

test.each<[problem: string, write: (writer: GgufWriter) => Promise<unknown>]>([
  ['tensor "b" is not planned', (writer) => writer.write("b", inPieces([1, 2], 2))],
  ['tensor "a": 1 values, expected 2 (F16[2])', (writer) => writer.write("a", inPieces([1], 1))],
  [
    'tensor "a": more than 2 values (F16[2])',
    (writer) => writer.write("a", inPieces([1, 2, 3], 2)),
  ],
  [
    'tensor "a", element 1: 70000 does not fit in F16 (F16[2])',
    (writer) => writer.write("a", inPieces([1, 70_000], 2)),
  ],
  [
    'tensor "a" was written before',
    async (writer) => {
      await writer.write("a", inPieces([1, 2], 2));
      await writer.write("a", inPieces([1, 2], 2));
    },
  ],
])("refuses: %s", async (problem, write) => {
  await expect(file(new Map(), plan, write)).rejects.toThrow(
    new ArgumentError(`createGguf: ${problem}`),
  );
});

test("refuses rows that are not whole blocks, and names that are planned twice", async () => {
  const nothing = async (): Promise<void> => {};
  const rows: PlannedGgufTensor[] = [{ name: "a", type: "Q8_0", shape: [2, 48] }];
  await expect(file(new Map(), rows, nothing)).rejects.toThrow(
    'createGguf: tensor "a" has rows of 48, not whole blocks of 32, as Q8_0 needs',
  );
  await expect(file(new Map(), [...plan, ...plan], nothing)).rejects.toThrow(
    'createGguf: tensor "a" is planned twice',
  );
});

test("is not complete without all tensors", async () => {
  await expect(file(new Map(), plan, async () => {})).rejects.toThrow(
    new StateError('createGguf: 1 planned tensors were not written: "a"'),
  );
});
