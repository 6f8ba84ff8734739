import { fc, test as prop } from "@fast-check/vitest";
import { full, softmax } from "@transmla/core";
import {
  evaluate,
  expectClose,
  expectIdentical,
  primitivesOnly,
  tolerances,
} from "@transmla/core/testing";
import { describe, expect, test } from "vitest";

import { plainBackend } from "./plain-backend.ts";

describe("expectClose", () => {
  test("names the worst element, both values and the bound", () => {
    expect(() => {
      expectClose([1, 2.5, 3.1], [1, 2, 3], { dtype: "f32", terms: 8 });
    }).toThrow("expectClose: element 1 of 3 is 2.5, expected 2 within 0.00000381 (f32, 8 terms)");
  });

  test("the bound follows dtype, terms and scale", () => {
    const close = (actual: number, closeness: Parameters<typeof expectClose>[2]) => (): void => {
      expectClose([actual], [1], closeness);
    };
    expect(close(1 + 2 ** -8, { dtype: "bf16" })).not.toThrow();
    expect(close(1 + 2 ** -6, { dtype: "bf16" })).toThrow("element 0");
    expect(close(1 + 2 ** -8, { dtype: "f16" })).toThrow("element 0");
    expect(close(1 + 2 ** -19, { dtype: "f32" })).toThrow("element 0");
    expect(close(1 + 2 ** -19, { dtype: "f32", terms: 100 })).not.toThrow();
    expect(close(1 + 2 ** -19, { dtype: "f32", terms: 1, scale: 100 })).not.toThrow();
    expect(close(1 + 2 ** -19, { dtype: "f32", terms: 1, scale: [100] })).not.toThrow();
    expect(close(2, { dtype: "i32", terms: 100 })).toThrow("element 0");
  });

  test("NaN and infinities match only themselves, and numbers that overflow", () => {
    const close = (actual: number, expected: number) => (): void => {
      expectClose([actual], [expected], { dtype: "f16" });
    };
    expect(close(Number.NaN, Number.NaN)).not.toThrow();
    expect(close(Infinity, 70000)).not.toThrow();
    expect(close(65504, 65530)).not.toThrow();
    expect(close(0, -0)).not.toThrow();
    for (const [actual, expected] of [
      [Number.NaN, 1],
      [1, Number.NaN],
      [Infinity, Number.NaN],
      [Infinity, 100],
      [-Infinity, Infinity],
      [60000, Infinity],
    ]) {
      expect(close(actual!, expected!)).toThrow(
        `element 0 of 1 is ${actual}, expected ${expected}`,
      );
    }
  });

  test("lengths must agree", () => {
    expect(() => {
      expectClose([1, 2], [1], { dtype: "f32" });
    }).toThrow("number of elements");
  });

  const terms = fc.array(fc.float({ min: -100, max: 100, noNaN: true }), {
    minLength: 1,
    maxLength: 200,
  });
  prop.prop([terms])("a sum in f32, in whatever order, lies within the bound", (terms) => {
    const exact = terms.reduce((sum, x) => sum + x, 0);
    const scale = terms.reduce((sum, x) => sum + Math.abs(x), 0);
    const inOrder = terms.reduce((sum, x) => Math.fround(sum + x), 0);
    const backwards = terms.reduceRight((sum, x) => Math.fround(sum + x), 0);
    const closeness = { dtype: "f32", terms: terms.length, scale } as const;
    expectClose([inOrder, backwards], [exact, exact], closeness);
  });

  test("every dtype has a tolerance with a reason", () => {
    expect(Object.keys(tolerances)).toEqual(["f32", "f16", "bf16", "i32", "u32", "q8", "q4"]);
    for (const { reason } of Object.values(tolerances)) expect(reason).toMatch(/\.$/);
  });
});

test("expectIdentical tells zeros apart and all NaN alike", () => {
  expectIdentical([Number.NaN, -0], [Number.NaN, -0]);
  expect(() => {
    expectIdentical([1, 0], [1, -0]);
  }).toThrow("expectIdentical: element 1 of 2 is 0, expected -0");
});

test("primitivesOnly hides fused kernels and shares the memory", async () => {
  const wrong = plainBackend({
    softmax: (out) => {
      out.buffer.fill(0);
    },
  });
  const softened = async (backend: typeof wrong): Promise<number[]> => {
    const { values } = await evaluate(() => {
      const x = full(backend, [2], 1);
      expect(wrong.memory().buffers).toBe(1);
      return softmax(x);
    });
    return Array.from(values);
  };
  expect(await softened(wrong)).toEqual([0, 0]);
  expect(await softened(primitivesOnly(wrong))).toEqual([0.5, 0.5]);
});
