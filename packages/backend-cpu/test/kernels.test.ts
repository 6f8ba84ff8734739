import { fc, test as prop } from "@fast-check/vitest";
import {
  add,
  cast,
  decode,
  div,
  encode,
  expertMatmul,
  full,
  fromBf16Bits,
  fromF16Bits,
  gatedActivation,
  max,
  maximum,
  minimum,
  softmax,
  tensor,
  topK,
  unary,
  type Backend,
  type DType,
  type Tensor,
} from "@transmla/core";
import {
  evaluate,
  expectClose,
  expectIdentical,
  place,
  primitivesOnly,
  type Outcome,
  type Sample,
  type Values,
} from "@transmla/core/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { cpuBackend } from "../src/index.ts";
import { exp } from "../src/kernels/functions.ts";

// What the conformance suite leaves to the backend: sizes beyond its blocks, and what happens at the limits of numbers.

let backend: Backend;
beforeAll(async () => {
  backend = await cpuBackend();
});
afterAll(() => {
  expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
  backend.dispose();
});

function dense(
  shape: readonly number[],
  dtype: DType,
  seed: number,
  values: Values = "smooth",
): Sample {
  return { dtype, shape, values, seed };
}

test("many tokens for each expert, and ids that name none", async () => {
  const [tokens, E, m, n] = [50, 3, 9, 40];
  const ids = Int32Array.from({ length: tokens * 2 }, (_, i) => (i * 7) % 5); // 3 and 4 do not exist
  for (const dtype of ["f32", "bf16"] as const) {
    const run = (on: Backend): Promise<Outcome> =>
      evaluate(() => {
        const x = place(on, dense([tokens, 1, n], dtype, 1));
        const weights = place(on, dense([E, m, n], "bf16", 2));
        return expertMatmul(x, weights, tensor(on, ids, [tokens, 2], "i32"));
      });
    const [own, composed] = [await run(backend), await run(primitivesOnly(backend))];
    expect(own.shape).toEqual([tokens, 2, m]);
    expectClose(own.values, composed.values, { dtype, terms: 2 * n, scale: 4 });
  }
});

describe("numbers at the limits", () => {
  const on = async (body: () => Tensor): Promise<number[]> => [...(await evaluate(body)).values];
  const floats = (...values: number[]): Tensor => tensor(backend, values, [values.length]);
  const integers = (dtype: "i32" | "u32", ...values: number[]): Tensor =>
    tensor(backend, values, [values.length], dtype);

  test("max and min let NaN win and order zeros", async () => {
    const a = [Number.NaN, 1, -0, 0, Infinity];
    const b = [1, Number.NaN, 0, -0, -Infinity];
    expect(await on(() => maximum(floats(...a), floats(...b)))).toEqual([NaN, NaN, 0, 0, Infinity]);
    expect(await on(() => minimum(floats(...a), floats(...b)))).toEqual([
      NaN,
      NaN,
      -0,
      -0,
      -Infinity,
    ]);
    expect(await on(() => max(floats(1, Number.NaN, 2)))).toEqual([Number.NaN]);
  });

  test("integers wrap around, divide towards zero, and give 0 when divided by 0", async () => {
    const low = -(2 ** 31);
    const i32 = (...values: number[]): Tensor => integers("i32", ...values);
    expect(await on(() => div(i32(7, -7, 5, low, 0), i32(-2, 2, 0, -1, 0)))).toEqual([
      -3,
      -3,
      0,
      low,
      0,
    ]);
    expect(await on(() => div(integers("u32", 2 ** 32 - 1, 7), integers("u32", 2, 0)))).toEqual([
      2 ** 31 - 1,
      0,
    ]);
    expect(await on(() => add(i32(2 ** 31 - 1), i32(1)))).toEqual([low]);
  });

  test("floats become integers towards zero, modulo 2^32; what is not finite becomes 0", async () => {
    const values = [1.9, -1.9, 2 ** 31 + 2 ** 10, 2 ** 32 + 2 ** 12, Infinity, Number.NaN];
    expect(await on(() => cast(floats(...values), "i32"))).toEqual([
      1,
      -1,
      -(2 ** 31) + 1024,
      4096,
      0,
      0,
    ]);
    expect(await on(() => cast(floats(...values), "u32"))).toEqual([
      1,
      2 ** 32 - 1,
      2 ** 31 + 1024,
      4096,
      0,
      0,
    ]);
  });

  test("topK ranks NaN above infinity", async () => {
    const values = [1, Number.NaN, Infinity, 3e38, Number.NaN];
    expect(await on(() => topK(floats(...values), 5))).toEqual([1, 4, 2, 3, 0]);
  });

  test("softmax of far-apart and infinite numbers", async () => {
    expect(await on(() => softmax(floats(-1e30, 0, 1e30)))).toEqual([0, 0, 1]);
    expect(await on(() => softmax(floats(-Infinity, 0, 0)))).toEqual([0, 0.5, 0.5]);
    expect(await on(() => softmax(floats(1, Number.NaN)))).toEqual([NaN, NaN]);
  });

  test("gates of large numbers", async () => {
    const gate = [-1e30, -200, 0, 200, 1e30];
    const one = (): Tensor => full(backend, [5], 1);
    for (const fn of ["silu", "gelu"] as const) {
      const values = await on(() => gatedActivation(floats(...gate), one(), fn));
      expect(values.map((x) => x + 0)).toEqual([0, 0, 0, 200, Math.fround(1e30)]); // -0 + 0 is 0
    }
  });

  for (const [dtype, value] of [
    ["f16", fromF16Bits],
    ["bf16", fromBf16Bits],
  ] as const) {
    test(`every ${dtype} pattern widens exactly, and back`, async () => {
      const bits = Uint16Array.from({ length: 65_536 }, (_, i) => i);
      const expected = Float32Array.from(bits, (x) => value(x));
      const stored = (): Tensor => tensor(backend, bits, [256, 256], dtype);
      expectIdentical(await on(() => cast(stored(), "f32")), expected);
      expectIdentical(await on(() => cast(cast(stored(), "f32"), dtype)), expected);
      const columns = await on(() => cast(stored().transpose(), "f32"));
      expect(columns).toEqual(columns.map((_, i) => expected.at((i % 256) * 256 + (i >> 8))));
    });
  }

  prop.prop([
    fc.array(fc.float(), { minLength: 1, maxLength: 50 }),
    fc.constantFrom<DType>("f16", "bf16"),
  ])("rounding f32 to 16 bits is that of encode", async (values, dtype) => {
    expectIdentical(
      await on(() => cast(floats(...values), dtype)),
      decode(encode(values, dtype), dtype),
    );
  });
});

describe("exp", () => {
  prop.prop([fc.double({ min: -104, max: 709, noNaN: true })])("is exact to 1e-11", (x) => {
    expect(Math.abs(exp(x) - Math.exp(x))).toBeLessThanOrEqual(1e-11 * Math.exp(x));
  });

  test("at the limits", () => {
    expect([-Infinity, -1e30, -111, 0, 710, Infinity, Number.NaN].map(exp)).toEqual([
      0,
      0,
      0,
      1,
      Infinity,
      Infinity,
      Number.NaN,
    ]);
    expect(exp(709.5)).toBe(Math.exp(709.5));
  });

  test("unary exp overflows and underflows as f32 does", async () => {
    const { values } = await evaluate(() =>
      unary("exp", tensor(backend, [-104, -103, 88, 89], [4])),
    );
    expect([...values]).toEqual([0, 2 ** -149, Math.fround(Math.exp(88)), Infinity]);
  });
});
