import { FormatError, UnsupportedError } from "@transmla/core";
import { describe, expect, test } from "vitest";

import type { ByteSource } from "../../src/checkpoint/folder.ts";
import { readGguf, readGgufFloats } from "../../src/checkpoint/gguf/file.ts";
import {
  DataWriter,
  f32,
  field,
  floats,
  ggufBytes,
  ggufSource,
  list,
  text,
  texts,
  u32,
  type Content,
} from "./writer.ts";

const read = async (content: Content) => readGguf(await ggufSource(ggufBytes(content)));
const noData = new Uint8Array();
const tensor = (change: object) => ({
  name: "a",
  shape: [2, 32],
  type: 0,
  data: new Uint8Array(256),
  ...change,
});

describe("readGguf", () => {
  test("reads every type of value", async () => {
    const { metadata, version } = await read({
      metadata: {
        u8: field(0, 255),
        i8: field(1, -128),
        u16: field(2, 65_535),
        i16: field(3, -32_768),
        u32: u32(2 ** 32 - 1),
        i32: field(5, -(2 ** 31)),
        f32: f32(1.5),
        yes: field(7, true),
        no: field(7, false),
        text: text("é▁\n"),
        u64: field(10, 2n ** 64n - 1n),
        small: field(10, 5n),
        i64: field(11, -(2n ** 63n)),
        f64: field(12, 0.1),
        list: list(5, [1, -2]),
        nested: list(9, [texts(["a", ""]), texts([])]),
        __proto__x: list(7, []),
      },
    });
    expect(version).toBe(3);
    expect(Object.fromEntries(metadata)).toEqual({
      u8: 255,
      i8: -128,
      u16: 65_535,
      i16: -32_768,
      u32: 2 ** 32 - 1,
      i32: -(2 ** 31),
      f32: 1.5,
      yes: true,
      no: false,
      text: "é▁\n",
      u64: 2n ** 64n - 1n,
      small: 5,
      i64: -(2n ** 63n),
      f64: 0.1,
      list: [1, -2],
      nested: [["a", ""], []],
      __proto__x: [],
    });
  });

  test.each([8, 32, 64, 4096])("reads tensors aligned to %i bytes", async (alignment) => {
    const bytes = ggufBytes({
      version: 2,
      alignment,
      metadata: { "general.alignment": u32(alignment) },
      tensors: [
        floats("a", [2, 3], [1, 2, 3, 4, 5, 6]),
        floats("b", [1], [7]),
        floats("c", [], [8]),
      ],
    });
    const file = await ggufSource(bytes);
    const { tensors, version } = await readGguf(file);
    expect(version).toBe(2);
    const seen = [...tensors.values()].map(({ name, shape, begin }) => [
      name,
      shape,
      begin % alignment,
    ]);
    expect(seen).toEqual([
      ["a", [2, 3], 0],
      ["b", [1], 0],
      ["c", [], 0],
    ]);
    const values = [];
    for (const each of tensors.values()) values.push([...(await readGgufFloats(file, each))]);
    expect(values).toEqual([[1, 2, 3, 4, 5, 6], [7], [8]]);
  });

  test("reads a long header in few pieces, and nothing after it", async () => {
    const words = Array.from({ length: 100_000 }, (_, i) => `word ${i}`);
    const file = await ggufSource(
      ggufBytes({ metadata: { words: texts(words) }, tensors: [floats("a", [1], [7])] }),
    );
    let total = 0;
    const counting: ByteSource = {
      ...file,
      size: 2 ** 40, // the data, which is not there, must not be asked for
      read: async (begin, end) => {
        total += end - begin;
        const bytes = new Uint8Array(end - begin);
        bytes.set(await file.read(begin, Math.min(end, file.size)));
        return bytes;
      },
    };
    const { metadata } = await readGguf(counting);
    expect(metadata.get("words")).toEqual(words);
    expect(total).toBeLessThan(4 * file.size);
  });

  const cases: readonly (readonly [string, Content, string])[] = [
    [
      "version 1",
      { version: 1 },
      "version 1 of the format is not supported; this library reads versions 2 and 3",
    ],
    [
      "version 4",
      { version: 4 },
      "version 4 of the format is not supported; this library reads versions 2 and 3",
    ],
    [
      "big-endian",
      { version: 0x03000000 },
      "the file is big-endian; convert it with gguf_convert_endian.py of llama.cpp",
    ],
    [
      "too many tensors",
      { counts: [1_000_001n, 0n] },
      "the number of tensors is 1000001, above the limit of 1000000",
    ],
    [
      "too many keys",
      { counts: [0n, 2n ** 63n] },
      "the number of keys is 9223372036854775808, above the limit of 100000",
    ],
    [
      "a value of no type",
      { metadata: { k: { type: 13, write: () => {} } } },
      'key "k": 13 is no type of a value',
    ],
    [
      "a truth value",
      { metadata: { k: field(7, 2) } },
      'key "k": 2 is neither 0 nor 1, as truth values are',
    ],
    [
      "a text that is not UTF-8",
      { metadata: { k: field(8, Uint8Array.of(0x61, 0xff)) } },
      'key "k", at byte 45, is not UTF-8',
    ],
    [
      "too many values",
      { metadata: { k: list(0, [], 1e7 + 1) } },
      'key "k": the number of values is 10000001, above the limit of 10000000',
    ],
    [
      "values beyond the file",
      { metadata: { k: list(10, [], 1000) } },
      'key "k": 1000 values do not fit in the 15 bytes left',
    ],
    [
      "deep arrays",
      { metadata: { k: list(9, [list(9, [list(9, [list(9, [list(0, [])])])])]) } },
      'key "k" nests deeper than 4 arrays',
    ],
    [
      "an alignment",
      { metadata: { "general.alignment": u32(24) } },
      "general.alignment is 24, not a power of two from 1 to 1048576",
    ],
    [
      "an alignment that is a text",
      { metadata: { "general.alignment": text("32") } },
      "general.alignment is 32, not a power of two from 1 to 1048576",
    ],
    [
      "axes",
      { tensors: [tensor({ shape: [1, 1, 1, 1, 1] })] },
      'tensor "a": 5 axes are above the limit of 4',
    ],
    ["an empty axis", { tensors: [tensor({ shape: [0, 32] })] }, 'tensor "a": axis 0 is 0'],
    [
      "a long axis",
      { tensors: [tensor({ shape: [2n ** 40n, 32] })] },
      'tensor "a": axis 0 is 1099511627776, above the limit of 4294967296',
    ],
    [
      "a large product",
      { tensors: [tensor({ shape: [2 ** 32, 2 ** 32] })] },
      'tensor "a": F32[4294967296,4294967296] takes more than 2^53 bytes',
    ],
    [
      "a dropped type",
      { tensors: [tensor({ type: 4 })] },
      'tensor "a": type 4 is unknown; this library reads F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, BF16',
    ],
    [
      "another type",
      { tensors: [tensor({ type: 20 })] },
      'tensor "a": type IQ4_NL is not supported; quantize the model as one of F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, BF16',
    ],
    [
      "part of a block",
      { tensors: [tensor({ type: 12, shape: [8, 32] })] },
      'tensor "a": rows of 32 are not whole blocks of 256, as Q4_K needs',
    ],
    [
      "an offset",
      { tensors: [tensor({ offset: 8 })] },
      'tensor "a": offset 8 is not a multiple of the alignment, 32',
    ],
    [
      "missing data",
      { tensors: [tensor({ data: new Uint8Array(255) })] },
      'tensor "a": F32[2,32] at offset 0 takes 256 bytes, beyond the 255 bytes of data; the file is truncated',
    ],
    [
      "no data",
      { tensors: [tensor({ data: noData })] },
      'tensor "a": F32[2,32] at offset 0 takes 256 bytes, beyond the 0 bytes of data; the file is truncated',
    ],
    [
      "overlap",
      { tensors: [tensor({}), tensor({ name: "b", offset: 224 })] },
      'tensors "a" and "b" overlap',
    ],
    ["a tensor twice", { tensors: [tensor({}), tensor({})] }, 'tensor "a" is there twice'],
  ];
  test.each(cases)("refuses %s", async (_what, content, problem) => {
    const kind = /not supported|big-endian/.test(problem) ? UnsupportedError : FormatError;
    await expect(read(content)).rejects.toThrow(new kind(`readGguf: ${problem} (dir/x.gguf)`));
    await expect(read(content)).rejects.toBeInstanceOf(kind);
  });

  test("refuses a key that is there twice", async () => {
    const to = new DataWriter();
    for (const key of ["k", "k"]) {
      to.text(key);
      to.u32(0);
      to.bytes.push(1);
    }
    const head = ggufBytes({ counts: [0n, 2n] }).subarray(0, 24);
    const bytes = Uint8Array.from([...head, ...to.bytes]);
    await expect(readGguf(await ggufSource(bytes))).rejects.toThrow(
      new FormatError('readGguf: key "k" is there twice (dir/x.gguf)'),
    );
  });

  test("refuses what is no GGUF file", async () => {
    const read = async (bytes: readonly number[]) =>
      readGguf(await ggufSource(Uint8Array.from(bytes)));
    await expect(read([1, 2, 3])).rejects.toThrow(
      new FormatError("readGguf: the file ends at byte 3, inside of the header (dir/x.gguf)"),
    );
    await expect(read([1, 2, 3, 4])).rejects.toThrow(
      new FormatError('readGguf: the file does not begin with "GGUF" (dir/x.gguf)'),
    );
  });

  test("refuses a text or a header that would be too long", async () => {
    const file = await ggufSource(ggufBytes({ counts: [0n, 1n] }).subarray(0, 24));
    const long = new Uint8Array(8);
    new DataView(long.buffer).setBigUint64(0, 10_000_001n, true);
    const head = await file.read(0, 24);
    await expect(readGguf(await ggufSource(Uint8Array.from([...head, ...long])))).rejects.toThrow(
      new FormatError(
        "readGguf: the length of key 0 is 10000001, above the limit of 10000000 (dir/x.gguf)",
      ),
    );
    // One key with twelve texts of ten million bytes.
    const period = 1e7;
    const metadata = { k: list(8, [], 12) };
    const start = ggufBytes({ metadata }).indexOf(12) + 8;
    const source: ByteSource = {
      name: "long",
      size: 2 ** 40,
      read: async (begin, end) => {
        const bytes = new Uint8Array(end - begin);
        bytes.set(ggufBytes({ metadata }).subarray(0, start));
        const view = new DataView(bytes.buffer);
        for (let at = start; at + 8 <= bytes.length; at += period) {
          view.setBigUint64(at, BigInt(period - 8), true);
        }
        return bytes;
      },
      close: async () => {},
    };
    await expect(readGguf(source)).rejects.toThrow(
      "readGguf: the header is longer than the limit of 100000000 bytes (long)",
    );
  });
});
