import { fc } from "@fast-check/vitest";

import type { StoredDType } from "../../src/checkpoint/elements.ts";
import { blobFolder, type ByteSource, type Folder } from "../../src/checkpoint/folder.ts";
import { memoryOutput } from "../../src/checkpoint/output.ts";
import { elementCount, type TensorInfo } from "../../src/checkpoint/tensors.ts";
import { createCheckpoint, type CheckpointOptions } from "../../src/checkpoint/write.ts";

/** A tensor with its values. */
export interface Filled extends TensorInfo {
  readonly values: ArrayLike<number>;
}

const int = (min: number, max: number): fc.Arbitrary<number> => fc.integer({ min, max });
const double = (limit: number): fc.Arbitrary<number> =>
  fc.oneof(
    fc.double({ min: -limit, max: limit, noNaN: true }),
    fc.constantFrom(0, -0, 1, Infinity, -Infinity, NaN, 2 ** -149, 2 ** -24, 2 ** -25),
  );

/** Numbers that each type can store, perhaps rounded. */
export const valuesOf: Readonly<Record<StoredDType, fc.Arbitrary<number>>> = {
  F64: fc.double(),
  F32: double(3.4e38),
  BF16: double(3.38e38),
  F16: double(65519),
  I32: int(-(2 ** 31), 2 ** 31 - 1),
  I64: fc.oneof(
    fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
    fc.constantFrom(2 ** 53, -(2 ** 53)),
  ),
  U8: int(0, 255),
  BOOL: int(0, 1),
};

const shapes = fc.array(int(0, 4), { maxLength: 3 });
const names = fc.oneof(
  fc.string({ unit: "binary", maxLength: 12 }),
  fc.constantFrom(
    "__proto__",
    "constructor",
    "0",
    "7",
    "model.norm.weight",
    '"quoted"\\',
    "toString",
  ),
);

/** Any tensor with values. */
const filled: fc.Arbitrary<Filled> = fc
  .record({
    name: names.filter((name) => name !== "__metadata__"),
    dtype: fc.constantFrom(...(Object.keys(valuesOf) as StoredDType[])),
    shape: shapes,
  })
  .chain((info) =>
    fc
      .array(valuesOf[info.dtype], {
        minLength: elementCount(info.shape),
        maxLength: elementCount(info.shape),
      })
      .map((values) => Object.assign({ values }, info)),
  );

/** Tensors of different names. */
export const models: fc.Arbitrary<Filled[]> = fc.uniqueArray(filled, {
  minLength: 1,
  maxLength: 8,
  selector: ({ name }) => name,
});

/** Writes tensors and returns the files. */
export async function written(
  tensors: readonly Filled[],
  options?: CheckpointOptions,
): Promise<ReadonlyMap<string, Blob>> {
  const output = memoryOutput();
  const writer = await createCheckpoint(output, tensors, options);
  for (const { name, values } of tensors) await writer.write(name, values);
  await writer.close();
  await output.commit();
  return output.files;
}

/** A file of these bytes. */
export async function fileOf(bytes: Uint8Array | readonly number[]): Promise<ByteSource> {
  return blobFolder(new Map([["x", new Blob([Uint8Array.from(bytes)])]]), "dir").open("x");
}

/** The bytes of a safetensors file with any header, right or wrong. */
export function rawFile(header: unknown, data = 0, length?: bigint): Uint8Array<ArrayBuffer> {
  const json = typeof header === "string" ? header : JSON.stringify(header);
  const text = new TextEncoder().encode(json);
  const bytes = new Uint8Array(8 + text.length + data);
  new DataView(bytes.buffer).setBigUint64(0, length ?? BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

/** A folder of texts and bytes. */
export function folderOf(
  files: Readonly<Record<string, string | Uint8Array<ArrayBuffer>>>,
): Folder {
  return blobFolder(
    new Map(Object.entries(files).map(([name, content]) => [name, new Blob([content])])),
    "dir",
  );
}

/** The header entry of an F32 tensor. */
export const f32 = (shape: unknown, offsets: unknown): object => ({
  dtype: "F32",
  shape,
  data_offsets: offsets,
});

/** A planned tensor. */
export const planned = (
  name: string,
  shape: readonly number[],
  dtype: StoredDType = "F32",
): TensorInfo => ({ name, dtype, shape });
