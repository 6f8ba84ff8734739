import type { Statement, V128 } from "../wasm/expression.ts";
import type { FunctionScope, Local } from "../wasm/module.ts";
import { f32x4, i32x4, v128 } from "../wasm/vector.ts";
import type { Lanes } from "./lanes.ts";

/** Smallest and largest exponent of normal f32. */
const EXPONENTS = [-126, 127] as const;
/**
 * Added to a number of small magnitude it leaves no fraction bits: the sum's low bits are the rounded number, plus 127,
 * which is the form of an f32's exponent.
 */
const ROUNDER = 1.5 * 2 ** 23 + 127;
/** ln(2) in two parts; multiples of the first are exact. */
const LN2 = [0.693359375, -2.1219444e-4] as const;
/** Of the polynomial `1 + r + r² p(r)` for |r| <= ln(2)/2, highest first (Moshier, Cephes, expf). */
const COEFFICIENTS = [
  1.98756915e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
  5.0000001201e-1,
] as const;

/**
 * The exponential of each lane times a power of two: `2^n` times a polynomial of what remains. The relative error is at
 * most 2e-7 where rounding is that of f32; results below 2^-126 are 0, those that overflow infinite, and NaN stays.
 *
 * @param scope - The function it is used in.
 * @param lanes - f32 lanes.
 * @param x - The argument, which is read several times.
 * @param power - The power of two: not positive. It widens the range of arguments without overflow.
 * @returns What to do first, and the result.
 */
export function exponential(
  scope: FunctionScope,
  lanes: Lanes,
  x: Local<"v128">,
  power = 0,
): { readonly before: readonly Statement[]; readonly value: V128 } {
  const [bits, n, rest, sum] = scope.locals("v128", 4) as [Vector, Vector, Vector, Vector];
  const constant = (value: number): Vector => scope.constant(f32x4.const(value));
  const [first, ...others] = COEFFICIENTS.map(constant) as [Vector, ...Vector[]];
  const lowest = constant((EXPONENTS[0] - power) * Math.LN2);
  const rounder = constant(ROUNDER + power);
  const polynomial = others.map((coefficient) => {
    return sum.set(lanes.multiplyAdd(sum, rest, coefficient));
  });
  return {
    before: [
      rest.set(f32x4.pmax(x, lowest)),
      bits.set(lanes.multiplyAdd(rest, constant(Math.LOG2E), rounder)),
      // Where this exponent is too small, the polynomial exceeds 2 and the result, if it has to, the range.
      bits.set(f32x4.pmin(bits, constant(ROUNDER + EXPONENTS[1]))),
      n.set(f32x4.sub(bits, rounder)),
      rest.set(lanes.multiplyAdd(n, constant(-LN2[0]), rest)),
      rest.set(lanes.multiplyAdd(n, constant(-LN2[1]), rest)),
      sum.set(first),
      ...polynomial,
      sum.set(lanes.multiplyAdd(sum, f32x4.mul(rest, rest), rest)),
      sum.set(f32x4.mul(f32x4.add(sum, constant(1)), i32x4.shl(bits, 23))),
    ],
    value: v128.andnot(sum, f32x4.lt(x, lowest)),
  };
}

type Vector = Local<"v128">;
