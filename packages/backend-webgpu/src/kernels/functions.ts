import type { GateFunction, UnaryFunction } from "@transmla/core";

/** The largest argument whose exponential f32 holds. */
const LARGEST = "88.72283";

/**
 * `wave(x, quarters)` is the sine of x and so many quarter turns: WGSL promises only 11 bits of sines. The quarter turns
 * in x are taken out in three parts (Cody & Waite 1980); polynomials of minimal error serve for what remains.
 */
const QUARTERS = `fn wave(x: f32, quarters: i32) -> f32 {
  let n = round(x * 0.63661977);
  let y = fma(n, -5.3903029e-15, fma(n, -7.5497894e-8, fma(n, -1.5707963, x)));
  let z = y * y;
  let quarter = (i32(n) + quarters) & 3;
  let odd = y + y * z * (-0.16666667 + z * (0.0083333310 + z * (-0.00019840874 + z * 2.7525562e-6)));
  let even = 1.0 + z * (-0.5 + z * (0.041666668 + z * (-0.0013888889 + z * (2.4801587e-5 + z * -2.7557319e-7))));
  let value = select(odd, even, (quarter & 1) == 1);
  return select(value, -value, quarter >= 2);
}`;

/**
 * Functions of one argument as WGSL. WGSL lets an implementation assume that there are no infinities, and some overflow
 * inside `tanh`: arguments are kept in the range where the functions differ from their limits.
 */
export const UNARY: Readonly<Record<UnaryFunction, string>> = {
  identity: "fn identity_of(x: f32) -> f32 { return x; }",
  exp: "fn exp_of(x: f32) -> f32 { return exp(x); }",
  log: "fn log_of(x: f32) -> f32 { return log(x); }",
  rsqrt: "fn rsqrt_of(x: f32) -> f32 { return inverseSqrt(x); }",
  tanh: "fn tanh_of(x: f32) -> f32 { let y = clamp(x, -10.0, 10.0); return 1.0 - 2.0 / (exp(2.0 * y) + 1.0); }",
  sigmoid: `fn sigmoid_of(x: f32) -> f32 { return 1.0 / (1.0 + exp(min(-x, ${LARGEST}))); }`,
  silu: `fn silu_of(x: f32) -> f32 {
  if (x < -60.0) { return x * exp(x + 60.0) * 8.7565107e-27; }
  return x / (1.0 + exp(-x));
}`,
  gelu: `fn gelu_of(x: f32) -> f32 {
  let y = clamp(0.7978845608 * (x + 0.044715 * x * x * x), -44.0, 44.0);
  return x * (1.0 - 1.0 / (exp(2.0 * y) + 1.0));
}`,
  sin: `${QUARTERS}
fn sin_of(x: f32) -> f32 { return wave(x, 0); }`,
  cos: `${QUARTERS}
fn cos_of(x: f32) -> f32 { return wave(x, 1); }`,
  abs: "fn abs_of(x: f32) -> f32 { return abs(x); }",
};

/** The names of the functions of one argument. */
export const unaryFunctions: readonly UnaryFunction[] = Object.keys(UNARY) as UnaryFunction[];

/** The gates of feed-forward layers. */
export const GATES: Readonly<Record<GateFunction, string>> = { silu: UNARY.silu, gelu: UNARY.gelu };
