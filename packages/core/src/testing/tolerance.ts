import { assert } from "vitest";

import type { DType } from "../dtype.ts";

/** How far a result of a dtype may lie from its reference, and why. */
export interface Tolerance {
  /** Allowed error relative to the expected value. */
  readonly relative: number;
  /** Allowed error for each term that was summed, relative to the sum of the terms' magnitudes. */
  readonly perTerm: number;
  /** Allowed error whatever the value. */
  readonly absolute: number;
  /** The largest finite number of the dtype. */
  readonly largest: number;
  /** Where the three figures come from. */
  readonly reason: string;
}

/** One f32 rounding of a product and one of a sum, each 2^-24 (Higham 2002, section 3.1). */
const PER_TERM = 2 ** -23;

/**
 * The tolerances of every numerical test, by the dtype of the result:
 * `|actual - expected| <= absolute + relative * |expected| + perTerm * terms * scale`.
 */
export const tolerances: Readonly<Record<DType, Tolerance>> = {
  f32: {
    relative: 2 ** -20,
    perTerm: PER_TERM,
    absolute: 2 ** -120,
    largest: (2 - 2 ** -23) * 2 ** 127,
    reason:
      "8 units in the last place: exp, tanh and the like are polynomials in f32, and a result may take several of them. " +
      "A sum of n terms errs by at most n * 2^-24 of the sum of their magnitudes, a product by 2^-24 more. " +
      "Below 2^-126 a backend may flush to zero, terms of a sum and factors of a product included.",
  },
  f16: {
    relative: 2 ** -10 + 2 ** -20,
    perTerm: PER_TERM,
    absolute: 2 ** -24,
    largest: 65504,
    reason:
      "One rounding from f32 to 11 bits errs by 2^-11; what it is compared with may have rounded the other way. " +
      "The arithmetic before it is that of f32. Subnormals are 2^-24 apart.",
  },
  bf16: {
    relative: 2 ** -7 + 2 ** -20,
    perTerm: PER_TERM,
    absolute: 2 ** -120,
    largest: (2 - 2 ** -7) * 2 ** 127,
    reason:
      "One rounding from f32 to 8 bits errs by 2^-8; what it is compared with may have rounded the other way. " +
      "The arithmetic before it is that of f32, whose exponents bf16 shares.",
  },
  i32: {
    relative: 0,
    perTerm: 0,
    absolute: 0,
    largest: 2 ** 31 - 1,
    reason: "Integer arithmetic is exact and wraps around.",
  },
  u32: {
    relative: 0,
    perTerm: 0,
    absolute: 0,
    largest: 2 ** 32 - 1,
    reason: "Integer arithmetic is exact and wraps around.",
  },
  q8: {
    relative: 0,
    perTerm: (0.5 / 127) * (1 + 2 ** -10),
    absolute: 2 ** -118,
    largest: (2 - 2 ** -23) * 2 ** 127,
    reason:
      "Rounding to the nearest of 255 steps of a block errs by half a step, which is the largest magnitude of the block " +
      "over 127; take that magnitude as the scale. Scale and quotient may be rounded in f32. A scale below 2^-126 becomes 0.",
  },
  q4: {
    relative: 0,
    perTerm: (1 / 8) * (1 + 2 ** -10),
    absolute: 2 ** -121,
    largest: (2 - 2 ** -23) * 2 ** 127,
    reason:
      "A step is the largest magnitude of the block over 8. Integers go from -8 to 7, so that a number as large as the " +
      "largest one, of the other sign, errs by a whole step; all others by half a step.",
  },
};

/**
 * How far a product may lie from its reference beyond that where its right operand holds blocks, relative to the largest
 * magnitude in the row of the left operand times the sum of the magnitudes in the column of the right one: the left operand
 * may be rounded to integers from -32767 to 32767 that share a scale along 32 elements or more, by half a step, 2^-16 of the
 * largest magnitude.
 */
export const ROUNDED_ROW: number = 2 ** -16 * (1 + 2 ** -10);

/** What the bound of a comparison depends on. */
export interface Closeness {
  /** The dtype of the result. */
  readonly dtype: DType;
  /** How many terms were summed into an element; none when absent. */
  readonly terms?: number;
  /** The sum of the magnitudes of an element's terms, for all elements or for each; `|expected|` when absent. */
  readonly scale?: number | ArrayLike<number>;
  /**
   * For a product with blocks: the largest magnitude in the row of each element times the sum of the magnitudes in its
   * column. {@link ROUNDED_ROW} times that is allowed beyond the rest.
   */
  readonly spread?: ArrayLike<number> | undefined;
}

/**
 * Asserts that every element lies within the tolerance of its dtype. NaN matches NaN; an infinity matches a number that
 * the dtype cannot hold, within the bound.
 *
 * @param actual - What a backend computed.
 * @param expected - What it should be, in f64.
 * @param closeness - The dtype, and how rounding errors accumulate.
 *
 * @example
 * ```ts
 * import { expectClose } from "@transmla/core/testing";
 * expectClose([0.1 + 0.2], [0.3], { dtype: "f32" });
 * expectClose([1e6 - 1e6 + 1e-3], [1e-3], { dtype: "f32", terms: 3, scale: 2e6 });
 * ```
 */
export function expectClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  closeness: Closeness,
): void {
  expectLength(actual, expected);
  const { dtype, terms = 0, scale, spread } = closeness;
  const { relative, perTerm, absolute, largest } = tolerances[dtype];
  const worst = { index: -1, ratio: 1, bound: 0 };
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i]!, expected[i]!];
    const magnitude = typeof scale === "number" ? scale : (scale?.[i] ?? Math.abs(e));
    const bound =
      absolute +
      relative * Math.abs(e) +
      perTerm * terms * magnitude +
      ROUNDED_ROW * (spread?.[i] ?? 0);
    const ratio = excess(a, e, bound, largest);
    if (ratio > worst.ratio) Object.assign(worst, { index: i, ratio, bound });
  }
  if (worst.index >= 0) {
    const { index, bound } = worst;
    assert.fail(
      `expectClose: element ${index} of ${expected.length} is ${actual[index]}, ` +
        `expected ${expected[index]} within ${bound.toPrecision(3)} (${dtype}, ${terms} terms)`,
    );
  }
}

/** The error in units of the bound. Numbers beyond the largest finite one count as that. */
function excess(actual: number, expected: number, bound: number, largest: number): number {
  if (Object.is(actual, expected) || actual === expected) return 0;
  const clamp = (x: number): number => Math.max(-largest, Math.min(largest, x));
  const ratio = Math.abs(clamp(actual) - clamp(expected)) / bound;
  return Number.isNaN(ratio) ? Infinity : ratio; // only one of them is NaN
}

/**
 * Asserts that every element is the expected one to the bit: -0 differs from 0. All NaN are alike.
 *
 * @param actual - What a backend computed.
 * @param expected - What it should be.
 */
export function expectIdentical(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  expectLength(actual, expected);
  for (let i = 0; i < expected.length; i++) {
    if (!Object.is(actual[i], expected[i])) {
      const shown = (x: number): string => (Object.is(x, -0) ? "-0" : `${x}`);
      assert.fail(
        `expectIdentical: element ${i} of ${expected.length} is ${shown(actual[i]!)}, expected ${shown(expected[i]!)}`,
      );
    }
  }
}

function expectLength(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  assert.equal(actual.length, expected.length, "number of elements");
}
