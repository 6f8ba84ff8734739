import { fc, test as prop } from "@fast-check/vitest";
import { describe, expect, test } from "vitest";

import { flatten, float32, float64, name, signed, sized, unsigned } from "../src/wasm/encoding.ts";

describe("LEB128", () => {
  // Edge values: where a byte more is needed, and the ends of the range.
  test.each([
    [0, [0x00]],
    [127, [0x7f]],
    [128, [0x80, 0x01]],
    [16_383, [0xff, 0x7f]],
    [16_384, [0x80, 0x80, 0x01]],
    [624_485, [0xe5, 0x8e, 0x26]],
    [2 ** 31, [0x80, 0x80, 0x80, 0x80, 0x08]],
    [2 ** 32 - 1, [0xff, 0xff, 0xff, 0xff, 0x0f]],
  ])("unsigned %i", (value, bytes) => {
    expect(unsigned(value)).toEqual(bytes);
  });

  test.each([
    [0, [0x00]],
    [63, [0x3f]],
    [64, [0xc0, 0x00]],
    [-1, [0x7f]],
    [-64, [0x40]],
    [-65, [0xbf, 0x7f]],
    [-123_456, [0xc0, 0xbb, 0x78]],
    [2 ** 31 - 1, [0xff, 0xff, 0xff, 0xff, 0x07]],
    [-(2 ** 31), [0x80, 0x80, 0x80, 0x80, 0x78]],
    [2 ** 32 - 1, [0x7f]],
  ])("signed %i", (value, bytes) => {
    expect(signed(value)).toEqual(bytes);
  });

  const decoded = (bytes: readonly number[]): bigint => {
    return bytes.reduce((sum, byte, i) => sum | (BigInt(byte & 0x7f) << BigInt(7 * i)), 0n);
  };

  prop.prop([fc.integer({ min: 0, max: 2 ** 32 - 1 })])("unsigned decodes to itself", (value) => {
    expect(decoded(unsigned(value))).toBe(BigInt(value));
  });

  prop.prop([fc.integer()])("signed decodes to itself", (value) => {
    const bytes = signed(value);
    expect(BigInt.asIntN(7 * bytes.length, decoded(bytes))).toBe(BigInt(value));
  });
});

test("floats are little-endian", () => {
  expect(float32(1)).toEqual([0, 0, 0x80, 0x3f]);
  expect(float64(-2)).toEqual([0, 0, 0, 0, 0, 0, 0, 0xc0]);
});

test("names and sections carry their size", () => {
  expect(flatten(name("env"))).toEqual([3, 101, 110, 118]);
  expect(flatten(sized([1, [2, [3]]], 10))).toEqual([10, 3, 1, 2, 3]);
});
