const FRACTIONS = 32;
/** 2^(j/32). */
const fractions = Float64Array.from({ length: FRACTIONS }, (_, j) => 2 ** (j / FRACTIONS));

const LOWEST_POWER = -160;
const HIGHEST_POWER = 1023;
/** 2^k for k from -160 to 1023. */
const powers = Float64Array.from(
  { length: HIGHEST_POWER - LOWEST_POWER + 1 },
  (_, i) => 2 ** (i + LOWEST_POWER),
);

const STEP = Math.LN2 / FRACTIONS;

/**
 * The exponential function with a relative error below 1e-11, about three times as fast as `Math.exp`: a multiple of
 * ln(2)/32 from tables and a polynomial for the rest (Tang 1989). Arguments below -110, where f32 has no result, give 0.
 *
 * @param x - Any number.
 */
export function exp(x: number): number {
  if (!(x > -110)) return x <= -110 ? 0 : Number.NaN;
  if (x > 709) return Math.exp(x);
  const n = Math.floor(x / STEP + 0.5);
  const r = x - n * STEP;
  const polynomial = 1 + r * (1 + r * (0.5 + r * (1 / 6 + r * (1 / 24))));
  return fractions[n & (FRACTIONS - 1)]! * powers[(n >> 5) - LOWEST_POWER]! * polynomial;
}

/**
 * `x * sigmoid(x)`.
 *
 * @param x - Any number.
 */
export function silu(x: number): number {
  return x / (1 + exp(-x));
}

/**
 * The tanh approximation of the Gaussian error linear unit (Hendrycks & Gimpel 2016), `x/2 * (1 + tanh(z))` with
 * `z = sqrt(2/pi) * (x + 0.044715 x³)`, written as `x * sigmoid(2z)`, which loses nothing where tanh is near -1.
 *
 * @param x - Any number.
 */
export function gelu(x: number): number {
  return x / (1 + exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));
}
