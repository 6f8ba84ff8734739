import { test as prop } from "@fast-check/vitest";
import { ArgumentError, BackendError, FormatError, StateError } from "@transmla/core";
import { describe, expect, test } from "vitest";

import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { f32, fileOf, models, rawFile, written } from "./files.ts";

const open = async (bytes: Uint8Array | readonly number[]) => openSafetensors(await fileOf(bytes));

describe("what the format allows", () => {
  test("no tensors, rank 0, empty tensors, padding and metadata", async () => {
    expect((await open(rawFile("{}   "))).tensors.size).toBe(0);
    const bytes = rawFile(
      {
        __metadata__: { format: "pt" },
        empty: f32([0, 3], [0, 0]),
        scalar: f32([], [0, 4]),
        last: f32([3, 0], [4, 4]),
        vast: f32([2 ** 32, 0, 2 ** 32], [4, 4]),
      },
      4,
    );
    bytes.set([0, 0, 0x80, 0x3f], bytes.length - 4);
    const source = await open(bytes);
    expect(await source.numbers("scalar")).toEqual(Float64Array.of(1));
    expect(await source.numbers("empty")).toEqual(new Float64Array(0));
    expect([...source.tensors.keys()]).toEqual(["empty", "scalar", "last", "vast"]);
  });

  test("any name, those of Object.prototype too", async () => {
    const entry = JSON.stringify(f32([], [0, 4]));
    const source = await open(rawFile(`{"__proto__":${entry}}`, 4));
    expect([...source.tensors.keys()]).toEqual(["__proto__"]);
    await expect(source.bytes("constructor")).rejects.toThrow(
      new ArgumentError('bytes: no tensor "constructor" (dir/x)'),
    );
  });

  test("unknown fields of an entry are ignored, as the reference implementation does", async () => {
    const source = await open(rawFile({ a: { ...f32([1], [0, 4]), note: { x: 1 } } }, 4));
    expect(source.tensors.get("a")?.shape).toEqual([1]);
  });
});

test("integers beyond 2^53 and booleans beyond 1 have no number", async () => {
  const header = {
    i: { dtype: "I64", shape: [2], data_offsets: [0, 16] },
    b: { dtype: "BOOL", shape: [3], data_offsets: [16, 19] },
  };
  const bytes = rawFile(header, 19);
  const data = new DataView(bytes.buffer, bytes.length - 19);
  data.setBigInt64(8, -(2n ** 53n) - 1n, true);
  data.setUint8(18, 2);
  const source = await open(bytes);
  await expect(source.numbers("i")).rejects.toThrow(
    new FormatError(
      'numbers: tensor "i", element 1: -9007199254740993 is beyond 2^53 and has no exact f64 (dir/x)',
    ),
  );
  await expect(source.numbers("b")).rejects.toThrow(
    new FormatError('numbers: tensor "b", element 2: 2 is neither 0 nor 1 (dir/x)'),
  );
  expect(await source.bytes("b")).toEqual(Uint8Array.of(0, 0, 2));
});

test("a source is not used after close, and closing twice is harmless", async () => {
  const source = await open(rawFile({ a: f32([1], [0, 4]) }, 4));
  await source.close();
  await source.close();
  await expect(source.numbers("a")).rejects.toThrow(
    new StateError("numbers: used after close (dir/x)"),
  );
});

test("a tensor that does not fit in memory is refused by name", async () => {
  const shape = [2 ** 32, 2 ** 8];
  const header = rawFile({ a: f32(shape, [0, 2 ** 42]) });
  const source = await openSafetensors({
    name: "vast",
    size: header.length + 2 ** 42,
    read: async (begin, end) => header.subarray(begin, end),
    close: async () => {},
  });
  await expect(source.numbers("a")).rejects.toThrow(
    new BackendError('numbers: no memory for the 1099511627776 elements of "a" as f64 (vast)'),
  );
});

test("a file that cannot be opened is closed", async () => {
  let closed = 0;
  const file = { ...(await fileOf(new Uint8Array(3))), close: async () => void closed++ };
  await expect(openSafetensors(file)).rejects.toThrow(FormatError);
  expect(closed).toBe(1);
});

/** Opens and reads everything; null when that worked. */
async function readAll(bytes: Uint8Array): Promise<unknown> {
  try {
    const source = await open(bytes);
    for (const name of source.tensors.keys()) await source.numbers(name);
    return null;
  } catch (error) {
    return error;
  }
}

async function bytesOf(files: ReadonlyMap<string, Blob>): Promise<Uint8Array> {
  return new Uint8Array(await files.get("model.safetensors")!.arrayBuffer());
}

prop.prop([models], { numRuns: 10 })(
  "every proper prefix of a file is refused with a FormatError",
  async (tensors) => {
    const bytes = await bytesOf(await written(tensors));
    expect(await readAll(bytes)).toBeNull();
    for (let length = 0; length < bytes.length; length++) {
      expect(await readAll(bytes.subarray(0, length))).toBeInstanceOf(FormatError);
    }
  },
);
