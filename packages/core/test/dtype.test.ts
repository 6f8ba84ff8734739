import { fc, test as prop } from "@fast-check/vitest";
import {
  ArgumentError,
  asHostArray,
  bytesOf,
  byteLength,
  decode,
  type DType,
  encode,
  fromBf16Bits,
  fromF16Bits,
  toBf16Bits,
  toF16Bits,
} from "@transmla/core";
import { describe, expect, test } from "vitest";

/** A 16-bit format: its conversions and the bits of its infinity. */
const formats = [
  { dtype: "f16", to: toF16Bits, from: fromF16Bits, infinity: 0x7c00 },
  { dtype: "bf16", to: toBf16Bits, from: fromBf16Bits, infinity: 0x7f80 },
] as const;

describe.each(formats)("$dtype", ({ dtype, to, from, infinity }) => {
  const sign = 0x8000;
  // The number that would follow the largest finite one is where rounding to infinity is decided.
  const value = (bits: number): number =>
    bits === infinity ? 2 * from(infinity - 1) - from(infinity - 2) : from(bits);

  test("all 65536 bit patterns survive the way there and back", () => {
    const wrong: number[] = [];
    for (let bits = 0; bits < 2 ** 16; bits++) {
      const x = from(bits);
      const isNaNBits = (bits & 0x7fff) > infinity;
      const back = to(x);
      const same = isNaNBits ? Number.isNaN(x) && Number.isNaN(from(back)) : back === bits;
      if (!same) wrong.push(bits);
    }
    expect(wrong).toEqual([]);
  });

  test("arrays decode like single numbers", () => {
    const all = Uint16Array.from({ length: 2 ** 16 }, (_, bits) => bits);
    expect(Array.from(decode(all, dtype))).toEqual(Array.from(all, (bits) => from(bits)));
  });

  test("numbers halfway between two neighbours go to the even one, all others to the nearer", () => {
    const wrong: string[] = [];
    const expectBits = (x: number, bits: number): void => {
      if (to(x) !== bits) wrong.push(`${x} gives ${to(x)}, not ${bits}`);
      if (to(-x) !== (bits | sign)) wrong.push(`${-x} gives ${to(-x)}, not ${bits | sign}`);
    };
    for (let bits = 0; bits < infinity; bits++) {
      const [below, above] = [value(bits), value(bits + 1)];
      const halfway = below + (above - below) / 2;
      const hair = halfway * 2 ** -52;
      expectBits(halfway, bits + (bits & 1));
      expectBits(halfway + hair, bits + 1);
      expectBits(halfway - hair, bits);
    }
    expect(wrong).toEqual([]);
  });

  test("infinities, zeros and NaN keep what they are", () => {
    expect([Infinity, -Infinity, 0, -0].map(to)).toEqual([infinity, infinity | sign, 0, sign]);
    expect(to(Number.MAX_VALUE)).toBe(infinity);
    expect(to(-Number.MIN_VALUE)).toBe(sign);
    expect(from(to(Number.NaN))).toBeNaN();
  });
});

test("bf16 rounds once from f64: through f32 this number would become a tie", () => {
  const x = 1 + 2 ** -8 + 2 ** -40;
  expect(Math.fround(x)).toBe(1 + 2 ** -8);
  expect(fromBf16Bits(toBf16Bits(x))).toBe(1 + 2 ** -7);
  expect(fromBf16Bits(toBf16Bits(1 + 2 ** -8))).toBe(1);
});

test("f16 rounds once, subnormals included", () => {
  expect(fromF16Bits(toF16Bits(1 + 2 ** -11 + 2 ** -50))).toBe(1 + 2 ** -10);
  expect(fromF16Bits(toF16Bits(2 ** -25 + 2 ** -60))).toBe(2 ** -24);
  expect(fromF16Bits(toF16Bits(2 ** -25))).toBe(0);
});

test("f16 overflows where the step beyond 65504 would be rounded up", () => {
  expect([65504, 65519.999, 65520, -65520].map((x) => fromF16Bits(toF16Bits(x)))).toEqual([
    65504,
    65504,
    Infinity,
    -Infinity,
  ]);
});

describe("encode and decode", () => {
  const dtypes: readonly DType[] = ["f32", "f16", "bf16", "i32", "u32"];
  prop.prop([fc.constantFrom(...dtypes), fc.array(fc.double(), { maxLength: 20 })])(
    "what was rounded once is not rounded again",
    (dtype, numbers) => {
      const once = encode(numbers, dtype);
      expect(encode(decode(once, dtype), dtype)).toEqual(once);
    },
  );

  test("integers truncate towards zero and wrap around", () => {
    expect(Array.from(encode([1.9, -1.9, 2 ** 31, -(2 ** 31) - 1], "i32"))).toEqual([
      1,
      -1,
      -(2 ** 31),
      2 ** 31 - 1,
    ]);
    expect(Array.from(encode([1.9, -1, 2 ** 32 + 5], "u32"))).toEqual([1, 2 ** 32 - 1, 5]);
  });
});

describe("host arrays and bytes", () => {
  test("bytes are read without a copy where they are aligned, else with one", () => {
    const bytes = new Uint8Array([0, 0, 0, 0, 0, 0, 128, 63, 0, 0]);
    const aligned = asHostArray(bytes.subarray(4, 8), "f32");
    expect(aligned).toEqual(Float32Array.of(1));
    expect(aligned.buffer).toBe(bytes.buffer);
    const shifted = asHostArray(bytes.subarray(5, 9), "u32");
    expect(shifted).toEqual(Uint32Array.of(0x3f8000));
    expect(shifted.buffer).not.toBe(bytes.buffer);
  });

  test("a part of an element is refused", () => {
    expect(() => asHostArray(new Uint8Array(7), "bf16")).toThrow(
      new ArgumentError("asHostArray: 7 bytes are not a whole number of bf16"),
    );
  });

  test("bytesOf sees the elements of a window only", () => {
    const window = Uint16Array.of(1, 2, 3, 4).subarray(1, 3);
    expect(Array.from(bytesOf(window))).toEqual([2, 0, 3, 0]);
  });

  test("widths of elements", () => {
    const dtypes: readonly DType[] = ["f32", "f16", "bf16", "i32", "u32", "q8", "q4"];
    expect(dtypes.map((dtype) => byteLength(dtype, 64))).toEqual([256, 128, 128, 256, 256, 72, 40]);
    expect(byteLength("q8", 33)).toBe(72);
  });
});
