// Each block format against its definition, value by value and bit by bit.
import { fc, test as prop } from "@fast-check/vitest";
import { fromF16Bits } from "@transmla/core";
import { describe, expect, test } from "vitest";

import { readGguf, readGgufFloats } from "../../src/checkpoint/gguf/file.ts";
import { ggufTypes } from "../../src/checkpoint/gguf/types.ts";
import { CHUNK_ELEMENTS } from "../../src/checkpoint/tensors.ts";
import { ggufBytes, ggufSource, readWhole } from "./writer.ts";

/** A block, read by bits. */
interface Block {
  readonly u8: (at: number) => number;
  readonly i8: (at: number) => number;
  readonly f16: (at: number) => number;
}

const bit = (value: number, at: number): number => (value >> at) & 1;
/** Value i of 32 in 16 bytes: low nibbles, then high ones. */
const nibble = (block: Block, at: number, i: number): number =>
  (block.u8(at + (i % 16)) >> (i < 16 ? 0 : 4)) & 15;
/** Bit i of a little-endian word. */
const wordBit = (block: Block, at: number, i: number): number =>
  bit(block.u8(at + (i >> 3)), i & 7);

/** Scale and minimum j of the eight in 12 bytes, as ggml's `get_scale_min_k4` has them. */
function scales(block: Block, at: number, j: number): readonly [number, number] {
  const s = (i: number): number => block.u8(at + i);
  if (j < 4) return [s(j) & 63, s(j + 4) & 63];
  return [(s(j + 4) & 15) | ((s(j - 4) >> 6) << 4), (s(j + 4) >> 4) | ((s(j) >> 6) << 4)];
}

/** Value i of a Q4_K or Q5_K block. */
function k45(block: Block, i: number, fifth: boolean): number {
  const sub = Math.floor(i / 32);
  const [scale, minimum] = scales(block, 4, sub);
  const byte = block.u8((fifth ? 48 : 16) + Math.floor(i / 64) * 32 + (i % 32));
  const high = fifth ? bit(block.u8(16 + (i % 32)), sub) * 16 : 0;
  const value = ((sub % 2 === 0 ? byte : byte >> 4) & 15) + high;
  return block.f16(0) * scale * value - block.f16(2) * minimum;
}

function k6(block: Block, i: number): number {
  const [half, l] = [Math.floor(i / 128), i % 32];
  const part = Math.floor((i % 128) / 32);
  const low = block.u8(half * 64 + l + (part % 2) * 32);
  const high = (block.u8(128 + half * 32 + l) >> (2 * part)) & 3;
  const value = ((part < 2 ? low : low >> 4) & 15) + high * 16 - 32;
  return block.f16(208) * block.i8(192 + Math.floor(i / 16)) * value;
}

/** Value i of a block by the formulas of ggml-quants.c. */
const formulas: Readonly<Record<string, (block: Block, i: number) => number>> = {
  Q4_0: (b, i) => (nibble(b, 2, i) - 8) * b.f16(0),
  Q4_1: (b, i) => nibble(b, 4, i) * b.f16(0) + b.f16(2),
  Q5_0: (b, i) => (nibble(b, 6, i) + 16 * wordBit(b, 2, i) - 16) * b.f16(0),
  Q5_1: (b, i) => (nibble(b, 8, i) + 16 * wordBit(b, 4, i)) * b.f16(0) + b.f16(2),
  Q8_0: (b, i) => b.i8(2 + i) * b.f16(0),
  Q4_K: (b, i) => k45(b, i, false),
  Q5_K: (b, i) => k45(b, i, true),
  Q6_K: k6,
};

describe.each(Object.keys(formulas))("%s", (name) => {
  const type = [...ggufTypes.values()].find((type) => type.name === name)!;
  const blocks = fc
    .array(fc.uint8Array({ minLength: type.blockBytes, maxLength: type.blockBytes }), {
      minLength: 1,
      maxLength: 3,
    })
    .map((blocks) => Uint8Array.from(blocks.flatMap((block) => [...block])));

  prop.prop([blocks], { numRuns: 30 })("has the values that ggml defines", (bytes) => {
    const view = new DataView(bytes.buffer);
    const count = (bytes.length / type.blockBytes) * type.blockValues;
    const exact = new Float64Array(count);
    const rounded = new Float32Array(count);
    type.dequantize(bytes, exact);
    type.dequantize(bytes, rounded);
    const expected = exact.map((_, i) => {
      const begin = Math.floor(i / type.blockValues) * type.blockBytes;
      const block: Block = {
        u8: (at) => view.getUint8(begin + at),
        i8: (at) => view.getInt8(begin + at),
        f16: (at) => fromF16Bits(view.getUint16(begin + at, true)),
      };
      return formulas[name]!(block, i % type.blockValues) + 0;
    });
    // Adding zero makes -0 and 0 one.
    expect(exact.map((x) => x + 0)).toEqual(expected);
    expect(rounded).toEqual(Float32Array.from(exact));
  });
});

test("the types without blocks are read as they are", () => {
  const bytes = Uint8Array.of(0, 0x3c, 0x80, 0xbf); // f16 1 and -1.875, bf16 0.0078125 and -1
  const values = [...ggufTypes.values()]
    .filter(({ blockValues }) => blockValues === 1)
    .map((type) => {
      const out = new Float64Array(bytes.length / type.blockBytes);
      type.dequantize(bytes, out);
      return [type.name, [...out]];
    });
  expect(values).toEqual([
    ["F32", [-1.0018310546875]],
    ["F16", [1, -1.875]],
    ["BF16", [0.0078125, -1]],
  ]);
});

test("a tensor of several pieces is read whole", async () => {
  const count = CHUNK_ELEMENTS + 64;
  const data = new Uint8Array((count / 32) * 34);
  for (let block = 0; block < count / 32; block++) {
    data[block * 34 + 1] = 0x3c; // a scale of 1
    data.fill(block % 100, block * 34 + 2, (block + 1) * 34);
  }
  const tensors = [{ name: "a", shape: [2, count / 2], type: 8, data }];
  const file = await ggufSource(ggufBytes({ tensors }));
  const tensor = (await readGguf(file)).tensors.get("a")!;
  const expected = Float32Array.from({ length: count }, (_, i) => Math.floor(i / 32) % 100);
  expect(await readGgufFloats(file, tensor)).toEqual(expected);
  expect(await readWhole(file, tensor)).toEqual(Float64Array.from(expected));
});
