import { FormatError } from "@transmla/core";
import { describe, expect, test } from "vitest";

import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { f32, fileOf, rawFile } from "./files.ts";

const open = async (bytes: Uint8Array | readonly number[]) => openSafetensors(await fileOf(bytes));
const known = "this library reads F32, F16, BF16, I32, F64, I64, U8, BOOL";

describe("a header that breaks a rule is refused", () => {
  const a = (entry: unknown) => ({ a: entry });
  const zeros = "0".repeat(200);
  const cases: readonly [name: string, bytes: Uint8Array, problem: string][] = [
    ["no length", new Uint8Array(7), "7 bytes are fewer than the 8 of the header length"],
    [
      "length 2^64 - 1",
      rawFile({}, 0, 2n ** 64n - 1n),
      "header length 18446744073709551615 is beyond the file's 10 bytes",
    ],
    [
      "length beyond 2^53",
      rawFile({}, 0, 2n ** 53n + 2n),
      "header length 9007199254740994 is beyond the file's 10 bytes",
    ],
    ["length one too large", rawFile({}, 0, 3n), "header length 3 is beyond the file's 10 bytes"],
    ["length 0", rawFile("", 4), 'the header does not begin with "{"'],
    ["space in front", rawFile(" {}"), 'the header does not begin with "{"'],
    ["an array", rawFile([]), 'the header does not begin with "{"'],
    [
      "not UTF-8",
      rawFile('{"\u0001"}').map((byte) => (byte === 1 ? 0xff : byte)),
      "not UTF-8 near byte 2",
    ],
    ["deep nesting", rawFile('{"a":[[['), "nested deeper than 3 levels at character 7"],
    ["a name twice", rawFile('{"a":{},"\\u0061":{}}'), 'repeated key "a" at character 8'],
    [
      "a field twice",
      rawFile('{"a":{"dtype":"F32","dtype":"F16"}}'),
      'repeated key "dtype" at character 20',
    ],
    [
      "metadata of numbers",
      rawFile({ __metadata__: { format: 1 } }),
      "__metadata__ is not an object of strings",
    ],
    ["metadata null", rawFile({ __metadata__: null }), "__metadata__ is not an object of strings"],
    ["an entry that is a number", rawFile(a(3)), 'tensor "a": 3 is not an object'],
    [
      "no dtype",
      rawFile(a({ shape: [], data_offsets: [0, 4] }), 4),
      `tensor "a": dtype undefined is unknown; ${known}`,
    ],
    ["unknown dtype", rawFile(a({ dtype: "X7" })), `tensor "a": dtype "X7" is unknown; ${known}`],
    [
      "no shape",
      rawFile(a({ dtype: "F32", data_offsets: [0, 4] }), 4),
      'tensor "a": shape undefined is not an array',
    ],
    [
      "negative axis",
      rawFile(a(f32([2, -1], [0, 4])), 4),
      'tensor "a": shape[1] is -1, not an integer from 0 to 4294967296',
    ],
    [
      "fractional axis",
      rawFile(a(f32([0.5], [0, 4])), 4),
      'tensor "a": shape[0] is 0.5, not an integer from 0 to 4294967296',
    ],
    [
      "axis 1e309",
      rawFile('{"a":{"dtype":"F32","shape":[1e309],"data_offsets":[0,4]}}', 4),
      'tensor "a": shape[0] is Infinity, not an integer from 0 to 4294967296',
    ],
    [
      "axis above 2^32",
      rawFile(a(f32([2 ** 32 + 1], [0, 4])), 4),
      'tensor "a": shape[0] is 4294967297, not an integer from 0 to 4294967296',
    ],
    [
      "axis as text",
      rawFile(a(f32(["4"], [0, 16])), 16),
      'tensor "a": shape[0] is "4", not an integer from 0 to 4294967296',
    ],
    [
      "65 axes",
      rawFile(a(f32(Array(65).fill(1), [0, 4])), 4),
      'tensor "a": 65 axes are above the limit of 64',
    ],
    [
      "a product that overflows",
      rawFile(a(f32([2 ** 32, 2 ** 32], [0, 0]))),
      'tensor "a": F32[4294967296,4294967296] takes more than 2^53 bytes, data_offsets [0,0] span 0',
    ],
    [
      "one offset",
      rawFile(a(f32([1], [4])), 4),
      'tensor "a": data_offsets [4] are not two integers in order',
    ],
    [
      "negative offset",
      rawFile(a(f32([1], [-4, 0])), 4),
      'tensor "a": data_offsets [-4,0] are not two integers in order',
    ],
    [
      "reversed offsets",
      rawFile(a(f32([1], [4, 0])), 4),
      'tensor "a": data_offsets [4,0] are not two integers in order',
    ],
    [
      "fractional offset",
      rawFile(a(f32([1], [0, 4.5])), 5),
      'tensor "a": data_offsets [0,4.5] are not two integers in order',
    ],
    [
      "offset beyond 2^53",
      rawFile(a(f32([1], [2 ** 53, 2 ** 53 + 4])), 4),
      'tensor "a": data_offsets [9007199254740992,9007199254740996] are not two integers in order',
    ],
    [
      "span of another size",
      rawFile(a(f32([2, 3], [0, 20])), 20),
      'tensor "a": F32[2,3] takes 24 bytes, data_offsets [0,20] span 20',
    ],
    [
      "truncated data",
      rawFile(a(f32([2, 3], [0, 24])), 23),
      'tensor "a": data_offsets [0,24] end beyond the 23 bytes of data; the file is truncated',
    ],
    ["trailing bytes", rawFile(a(f32([1], [0, 4])), 7), "the tensors end at 4 of 7 bytes of data"],
    ["data of no tensor", rawFile({}, 1), "the tensors end at 0 of 1 bytes of data"],
    [
      "a hole in front",
      rawFile(a(f32([1], [4, 8])), 8),
      'tensor "a" begins at 4, not at 0: it leaves a hole before it',
    ],
    [
      "a hole between",
      rawFile({ a: f32([1], [0, 4]), b: f32([1], [8, 12]) }, 12),
      'tensor "b" begins at 8, not at 4: it leaves a hole before it',
    ],
    [
      "an overlap",
      rawFile({ b: f32([2], [4, 12]), a: f32([2], [0, 8]) }, 12),
      'tensor "b" begins at 4, not at 8: it overlaps the tensor before it',
    ],
    [
      "the same bytes twice",
      rawFile({ a: f32([1], [0, 4]), b: f32([1], [0, 4]) }, 4),
      'tensor "b" begins at 0, not at 4: it overlaps the tensor before it',
    ],
    [
      "an empty tensor inside another",
      rawFile({ a: f32([2], [0, 8]), b: f32([0], [4, 4]) }, 8),
      'tensor "b" begins at 4, not at 8: it overlaps the tensor before it',
    ],
    [
      "a long value",
      rawFile(a(f32(zeros, [0, 4])), 4),
      `tensor "a": shape "${"0".repeat(99)}... is not an array`,
    ],
  ];
  test.each(cases)("%s", async (_, bytes, problem) => {
    await expect(open(bytes)).rejects.toThrow(
      new FormatError(`openSafetensors: ${problem} (dir/x)`),
    );
  });

  test("text that is not JSON", async () => {
    const message = /^openSafetensors: not JSON: .+ \(dir\/x\)$/s;
    for (const text of ["{", '{"a', '{"a\\', "{}}", '{"a":{}', "{,}", "{:}", '{"\\q":1}']) {
      await expect(open(rawFile(text))).rejects.toThrow(message);
    }
  });

  test("a header above the limit, before it is read", async () => {
    const read: number[] = [];
    const huge = {
      name: "huge",
      size: 1e9,
      read: async (begin: number, end: number) => {
        read.push(begin, end);
        return rawFile("", 0, 100_000_001n);
      },
      close: async () => {},
    };
    await expect(openSafetensors(huge)).rejects.toThrow(
      new FormatError(
        "openSafetensors: header length 100000001 is above the limit of 100000000 (huge)",
      ),
    );
    expect(read).toEqual([0, 8]);
  });

  test.each("F8_E4M3 F8_E5M2 F4 I8 U16 I16 U32 U64 C64".split(" "))(
    "dtype %s is defined but unsupported",
    async (dtype) => {
      await expect(
        open(rawFile({ a: { dtype, shape: [0], data_offsets: [0, 0] } })),
      ).rejects.toThrow(
        `openSafetensors: tensor "a": dtype ${dtype} is unsupported; ${known} (dir/x)`,
      );
    },
  );

  test("a header of more values than the limit, before it is parsed", async () => {
    const bytes = rawFile(`{"a":[${"0,".repeat(10_000_001)}0]}`);
    await expect(open(bytes)).rejects.toThrow(
      /^openSafetensors: more than 10000000 values at character \d+ \(dir\/x\)$/,
    );
  });
});
