import { fc, test as prop } from "@fast-check/vitest";
import { describe, expect, test } from "vitest";

import { createRandom, xoshiro128 } from "../../src/generate/random.ts";

test("xoshiro128** gives the numbers of its authors' program", () => {
  const next = xoshiro128(Uint32Array.of(1, 2, 3, 4));
  expect(Array.from({ length: 10 }, next)).toEqual([
    11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597,
    4258142804,
  ]);
});

test("seeds give the same numbers for ever", () => {
  const first = (seed: number): number[] => Array.from({ length: 2 }, createRandom(seed));
  // Computed by an independent program from the definition.
  expect(first(0)).toEqual([0.011667879721498298, 0.38517527499101045]);
  expect(first(1)).toEqual([0.09735302420425807, 0.7837207158088384]);
  expect(first(2 ** 53 - 1)).toEqual([0.014720604231386214, 0.9203145672848804]);
});

const seeds = fc.maxSafeNat();

prop.prop([seeds, seeds])("different seeds give different numbers", (a, b) => {
  fc.pre(a !== b);
  expect(createRandom(a)()).not.toBe(createRandom(b)());
});

test("seeds that differ in the high half only give different numbers", () => {
  const first = Array.from({ length: 1000 }, (_, high) => createRandom(high * 2 ** 32 + 1)());
  expect(new Set(first).size).toBe(1000);
});

describe("uniform on [0, 1)", () => {
  const random = createRandom(7);
  const numbers = Array.from({ length: 60_000 }, random);

  test("bounds and mean", () => {
    expect(Math.min(...numbers)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...numbers)).toBeLessThan(1);
    const mean = numbers.reduce((sum, x) => sum + x, 0) / numbers.length;
    expect(Math.abs(mean - 0.5)).toBeLessThan(4 * Math.sqrt(1 / 12 / numbers.length));
  });

  test("cells, alone and in successive pairs", () => {
    const cell = (x: number): number => Math.floor(x * 8);
    const counts = new Map<number, number>();
    for (let i = 0; i < numbers.length; i += 2) {
      const pair = cell(numbers.at(i)!) * 8 + cell(numbers.at(i + 1)!);
      counts.set(pair, (counts.get(pair) ?? 0) + 1);
    }
    const expected = numbers.length / 2 / 64;
    const chiSquare = [...counts.values()].reduce(
      (sum, count) => sum + (count - expected) ** 2 / expected,
      0,
    );
    expect(counts.size).toBe(64);
    expect(chiSquare).toBeLessThan(103.4); // 63 degrees of freedom, 0.1 %
  });

  test("low bits are not all zero", () => {
    const low = numbers.map((x) => (x * 2 ** 53) % 2 ** 20);
    expect(new Set(low).size).toBeGreaterThan(55_000);
  });
});

test.each([-1, 0.5, Number.NaN, 2 ** 53])("refuses the seed %s", (seed) => {
  expect(() => createRandom(seed)).toThrow(
    `generate: seed ${seed} must be an integer from 0 to 2^53 - 1`,
  );
});
