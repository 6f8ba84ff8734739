/** Numbers in any nesting. */
type Numbers = ArrayLike<number> | readonly Numbers[];

function flatten(numbers: Numbers): number[] {
  return Array.from(numbers as ArrayLike<number | Numbers>).flatMap((entry) =>
    typeof entry === "number" ? [entry] : flatten(entry),
  );
}

/** The largest difference of two entries, relative to the largest magnitude that is expected. */
export function relativeError(actual: Numbers, expected: Numbers): number {
  const [a, e] = [flatten(actual), flatten(expected)];
  if (a.length !== e.length)
    throw new Error(`relativeError: ${a.length} numbers, expected ${e.length}`);
  const difference = a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - e[i]!)), 0);
  const magnitude = e.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
  return difference === 0 ? 0 : difference / magnitude;
}

/** The relative error of a product of f64 numbers that should be equal in real arithmetic. */
export const EXACT = 1e-10;

/** The same in f32, through a whole model. */
export const SINGLE = 1e-4;

/** Logits of the bundled model with f16 activations: many roundings of 2^-11 at most, which mostly cancel. */
export const HALF: number = 2 ** -10;

/** The same for random weights, whose logits are small beside the terms that they are sums of. */
export const HALF_RANDOM: number = 2 ** -7;

/** What a violated premise changes at least. */
export const BROKEN = 1e-3;
