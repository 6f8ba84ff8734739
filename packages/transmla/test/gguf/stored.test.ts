import { fc, test as prop } from "@fast-check/vitest";
import { asHostArray, decode, fromF16Bits, toF16Bits } from "@transmla/core";
import { expect } from "vitest";

import { ggufTypes } from "../../src/checkpoint/gguf/types.ts";
import { readGgufStored } from "../../src/gguf/stored.ts";
import { fileOf } from "../checkpoint/files.ts";

const kept: Readonly<Record<string, string | undefined>> = {
  F16: "f16",
  BF16: "bf16",
  Q8_0: "q8",
  Q4_0: "q4",
};

prop.prop([
  fc.constantFrom(...ggufTypes.values()),
  fc.integer({ min: 1, max: 5 }),
  fc.infiniteStream(fc.nat(255)),
])(
  "a tensor in its stored form has the values of ggml's formulas",
  async (type, blocks, random) => {
    const bytes = Uint8Array.from({ length: blocks * type.blockBytes }, () => random.next().value);
    if (type.name.startsWith("Q")) {
      // A scale is finite.
      const scale = toF16Bits(fromF16Bits(bytes[0]! << 6) || 1);
      for (let at = 0; at < bytes.length; at += type.blockBytes) {
        bytes.set([scale & 255, scale >> 8], at);
      }
    }
    const shape = [blocks * type.blockValues];
    const tensor = { name: "x", type, shape, begin: 3, end: 3 + bytes.length };
    const stored = await readGgufStored(await fileOf([1, 2, 3, ...bytes]), tensor);
    expect(stored?.dtype).toBe(kept[type.name]);
    if (!stored) return;
    const expected = new Float32Array(shape[0]!);
    type.dequantize(bytes, expected);
    expect(decode(asHostArray(stored.bytes, stored.dtype), stored.dtype)).toEqual(expected);
  },
);
