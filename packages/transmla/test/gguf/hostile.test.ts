// Damaged files: every one is read, or refused with an error of this library, without reading or holding more than it has.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { fc, test as prop } from "@fast-check/vitest";
import { TransmlaError } from "@transmla/core";
import { describe, expect } from "vitest";

import { readAssets } from "../../src/assets.ts";
import { blobFolder, type ByteSource, type Folder } from "../../src/checkpoint/folder.ts";
import { openCheckpoint } from "../../src/checkpoint/shards.ts";
import { ggufFolder } from "../../src/gguf/folder.ts";
import { readConfig } from "../../src/load.ts";
import { shared } from "../shared.ts";
import { ggufContent } from "./small-model.ts";
import { ggufBytes } from "./writer.ts";

const sharedFile = join(shared, "fixtures/gguf/llama-legacy-quants-ropefreqs.gguf");
const small = ggufBytes(ggufContent({ architecture: "llama", biased: true, tied: false }));
const smallHeader = new TextDecoder("latin1").decode(small).lastIndexOf("output.weight") + 40;

/** Bytes that mean something to a reader: lengths, counts and types at their limits. */
const telling = fc.constantFrom(0, 1, 2, 4, 7, 8, 9, 12, 13, 0x7f, 0x80, 0xff);

/** What is changed: single bytes, whole 64-bit numbers, bytes that are missing or too many, the end. */
function damages(header: number, size: number): fc.Arbitrary<(bytes: Uint8Array) => Uint8Array> {
  const at = fc.integer({ min: 0, max: header - 1 });
  const bytes = fc
    .array(fc.tuple(at, fc.oneof(telling, fc.integer({ min: 0, max: 255 }))), {
      minLength: 1,
      maxLength: 4,
    })
    .map((changes) => (file: Uint8Array) => {
      for (const [place, value] of changes) file[place] = value;
      return file;
    });
  const word = fc
    .tuple(
      at,
      fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.bigInt({ min: 0n, max: 2n ** 25n })),
    )
    .map(([place, value]) => (file: Uint8Array) => {
      const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
      view.setBigUint64(Math.min(place, size - 8), value, true);
      return file;
    });
  const removed = fc.tuple(at, fc.integer({ min: 1, max: 16 })).map(
    ([place, count]) =>
      (file: Uint8Array) =>
        Uint8Array.from([...file.subarray(0, place), ...file.subarray(place + count)]),
  );
  const cut = fc
    .oneof(at, fc.integer({ min: 0, max: size - 1 }))
    .map((end) => (file: Uint8Array) => file.subarray(0, end));
  return fc.oneof({ weight: 3, arbitrary: bytes }, { weight: 3, arbitrary: word }, removed, cut);
}

/** A folder with one file that counts what is read of it. */
function counting(bytes: Uint8Array, read: { bytes: number; open: number }): Folder {
  const folder = blobFolder(new Map([["x.gguf", new Blob([Uint8Array.from(bytes)])]]), "dir");
  const open = async (name: string): Promise<ByteSource> => {
    const source = await folder.open(name);
    read.open++;
    return {
      ...source,
      read: async (begin, end) => {
        read.bytes += end - begin;
        return source.read(begin, end);
      },
      close: async () => {
        read.open--;
        await source.close();
      },
    };
  };
  return { ...folder, open };
}

/** Reads all there is; false when it is refused. */
async function readAll(file: Folder): Promise<boolean> {
  try {
    const folder = await ggufFolder(file, "x.gguf");
    const { json } = await readConfig(folder);
    await readAssets(folder, json);
    const source = await openCheckpoint(folder);
    try {
      for (const [name, { shape }] of source.tensors) {
        const values = await source.numbers(name);
        expect(values.length).toBe(shape.reduce((product, size) => product * size, 1));
      }
    } finally {
      await source.close();
    }
    return true;
  } catch (error) {
    if (!(error instanceof TransmlaError)) throw error;
    return false;
  }
}

const files: readonly (readonly [string, () => Uint8Array, number])[] = [
  ["a small file", () => small, smallHeader],
  ["a file with quantized tensors", () => readFileSync(sharedFile), 18_759],
];

describe.each(files)("%s", (name, read, header) => {
  const present = name === "a small file" || existsSync(sharedFile);
  const size = present ? read().length : header;
  const test = present ? prop : prop.skip;

  test.prop([damages(header, size)], { numRuns: 400 })(
    "is read or refused when damaged",
    async (damage) => {
      const bytes = damage(Uint8Array.from(read()));
      const counted = { bytes: 0, open: 0 };
      await readAll(counting(bytes, counted));
      expect(counted.open).toBe(0);
      // The header, and each tensor once.
      expect(counted.bytes).toBeLessThanOrEqual(3 * bytes.length);
    },
  );
});

prop("the small file is read when it is whole", async () => {
  const counted = { bytes: 0, open: 0 };
  expect(await readAll(counting(small, counted))).toBe(true);
});
