import type { Statement, V128 } from "../wasm/expression.ts";
import type { FunctionScope, Local } from "../wasm/module.ts";
import { f32x4, i32x4 } from "../wasm/vector.ts";
import type { Lanes } from "./lanes.ts";

/**
 * Added to a number of small magnitude it leaves no fraction bits: the sum's low bits are the rounded number, plus 127,
 * which is the form of an f32's exponent.
 */
const ROUNDER = 1.5 * 2 ** 23 + 127;
/**
 * Of the polynomial nearest to `2^(f/2)` in relative error for |f| <= 1/2 that is 1 at 0, highest first. Its square has one
 * step less than a polynomial as near to `2^f`.
 */
const COEFFICIENTS = [
  0.0006014245445840061, 0.006950807757675648, 0.06005671247839928, 0.3465728163719177, 1,
] as const;

type Vector = Local<"v128">;

/**
 * The argument from which on exponentials times a power of two are infinite.
 *
 * @param power - The power of two.
 */
export function overflow(power: number): number {
  return (128 - power) * Math.LN2;
}

/**
 * The exponential of each lane times a power of two: `2^n` times a polynomial of what remains of `x / ln(2)`. The relative
 * error is at most 4e-7 + 7e-8 |x|, where the second part is from rounding the quotient; with relaxed instructions, which do
 * not round it, 4e-7 + 1.4e-8 |x|. Results below 2^-126.5 are 0, and NaN stays.
 *
 * @param scope - The function it is used in.
 * @param lanes - f32 lanes.
 * @param x - The argument, at most {@link overflow}; it changes.
 * @param power - The power of two: not positive. It widens the range of arguments without overflow.
 * @returns What to do first, and the result.
 */
export function exponential(
  scope: FunctionScope,
  lanes: Lanes,
  x: Vector,
  power = 0,
): { readonly before: readonly Statement[]; readonly value: V128 } {
  const [bits, root] = scope.locals("v128", 2) as [Vector, Vector];
  const constant = (value: number): Vector => scope.constant(f32x4.const(value));
  const [first, ...others] = COEFFICIENTS.map(constant) as [Vector, ...Vector[]];
  // There the exponent's bits are 0, which stand for a factor of 0.
  const lowest = constant((-127 - power) * Math.LN2);
  const [rounder, quotient] = [constant(ROUNDER + power), constant(Math.LOG2E)];
  return {
    before: [
      x.set(f32x4.pmax(x, lowest)),
      bits.set(lanes.multiplyAdd(x, quotient, rounder)),
      x.set(lanes.multiplyAdd(x, quotient, f32x4.sub(rounder, bits))),
      root.set(first),
      ...others.map((coefficient) => root.set(lanes.multiplyAdd(root, x, coefficient))),
    ],
    value: f32x4.mul(f32x4.mul(root, root), i32x4.shl(bits, 23)),
  };
}
