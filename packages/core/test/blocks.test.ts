import { fc, test as prop } from "@fast-check/vitest";
import {
  ArgumentError,
  asHostArray,
  BLOCK_SIZE,
  blockElement,
  decode,
  encode,
  isAligned,
  matmul,
  scope,
  tensor,
  toF16Bits,
  fromF16Bits,
} from "@transmla/core";
import { evaluate, expectClose } from "@transmla/core/testing";
import { afterEach, describe, expect, test } from "vitest";

import { plainBackend } from "./plain-backend.ts";

const backend = plainBackend();

afterEach(() => {
  expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
});

/** A block by its parts. */
function block(scale: number, integers: readonly number[]): Uint8Array {
  const out = new Uint8Array(4 + integers.length);
  new DataView(out.buffer).setFloat32(0, scale, true);
  out.set(integers, 4);
  return out;
}

describe("the form of blocks", () => {
  test("q8 is a scale and 32 signed bytes", () => {
    const integers = Array.from({ length: 32 }, (_, i) => 8 * i - 128);
    expect(Array.from(decode(block(0.5, integers), "q8"))).toEqual(integers.map((x) => x / 2));
  });

  test("q4 is a scale and 16 bytes: elements 0 to 15 in the low halves, 16 to 31 in the high ones", () => {
    const bytes = Array.from({ length: 16 }, (_, i) => i | ((15 - i) << 4));
    const expected = Array.from({ length: 32 }, (_, i) => (i < 16 ? i : 31 - i) - 8);
    const q4 = block(2, bytes);
    expect(Array.from(decode(q4, "q4"))).toEqual(expected.map((x) => 2 * x));
    expect(blockElement("q4", q4, 0, 17)).toBe(2 * expected[17]!);
  });

  test("blocks of GGUF are held exactly", () => {
    for (let bits = 0; bits < 0x7c00; bits += 7) {
      const scale = fromF16Bits(bits);
      const [x] = decode(block(scale, Array(32).fill(0x81)), "q8");
      expect(x).toBe(-127 * scale);
      expect(toF16Bits(scale)).toBe(bits);
    }
  });
});

const numbers = fc.array(fc.float({ noNaN: true, min: -100, max: 100 }), {
  minLength: BLOCK_SIZE,
  maxLength: BLOCK_SIZE,
});

describe("rounding", () => {
  prop.prop([numbers, fc.constantFrom("q8" as const, "q4" as const)])(
    "errs by the step that the largest magnitude sets",
    (x, dtype) => {
      const scale = Math.max(...x.map(Math.abs));
      expectClose(decode(encode(x, dtype), dtype), x, { dtype, terms: 1, scale });
    },
  );

  prop.prop([numbers])("q8 leaves integers of a block that reaches 127 as they are", (x) => {
    const integers = x.map(Math.round).with(5, -127);
    expect(Array.from(decode(encode(integers, "q8"), "q8"), (y) => y + 0)).toEqual(
      integers.map((y) => y + 0),
    );
  });

  test("the number of largest magnitude is exact in q4, whatever its sign", () => {
    for (const extreme of [3.5, -3.5]) {
      const x = Array.from({ length: 32 }, (_, i) => (i === 9 ? extreme : Math.sin(i)));
      expect(decode(encode(x, "q4"), "q4")[9]).toBe(extreme);
    }
  });

  test("numbers that are no whole block are refused", () => {
    expect(() => encode([1, 2, 3], "q8")).toThrow(
      new ArgumentError("encode: 3 numbers are not whole blocks of q8"),
    );
    expect(() => asHostArray(new Uint8Array(35), "q8")).toThrow("not a whole number of q8");
    expect(() => tensor(backend, new Uint8Array(35), [32], "q8")).toThrow(
      new ArgumentError("tensor: shape [32] needs 36 bytes of q8, got 35"),
    );
  });
});

test("which views keep blocks whole", () => {
  scope(() => {
    const x = tensor(backend, new Float32Array(4 * 96), [4, 96], "q8");
    expect(isAligned(x)).toBe(true);
    expect(isAligned(x.slice(1, 32, 70))).toBe(true);
    expect(isAligned(x.slice(1, 16, 64))).toBe(false);
    expect(isAligned(x.transpose())).toBe(false);
    expect(isAligned(x.transpose(), 0)).toBe(true);
    expect(isAligned(x.reshape([8, 48]))).toBe(false);
    expect(isAligned(x.reshape([4, 3, 32]))).toBe(true);
  });
});

test("views that cut through blocks are widened for a kernel", async () => {
  const seen: string[] = [];
  const { kernels } = backend;
  const watching = plainBackend({
    matmul: (out, inputs, attributes) => {
      seen.push(inputs[1]!.dtype);
      return kernels.matmul(out, inputs, attributes);
    },
  });
  const run = (start: number): Promise<unknown> =>
    evaluate(() => {
      const w = tensor(watching, new Float32Array(2 * 64).fill(1), [2, 64], "q8");
      const x = tensor(watching, new Float32Array(32).fill(1), [1, 32]);
      return matmul(x, w.slice(1, start, start + 32).transpose());
    });
  await run(32);
  await run(8);
  expect(seen).toEqual(["q8", "f32"]);
});
