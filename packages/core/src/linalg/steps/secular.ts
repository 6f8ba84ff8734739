import { notConverged } from "./convergence.ts";
import type { Subject } from "./convergence.ts";

/**
 * The secular equation 1 + Σⱼ zⱼ² / (pⱼ - λ) = 0 with ascending poles p. Poles enter only by their
 * differences: a caller whose poles are squares forms them as (a - b)(a + b), without cancellation.
 */
export interface SecularProblem {
  /** Square roots of the weights, none of them 0. */
  readonly z: Float64Array;
  /** pⱼ - pₒ to full relative accuracy. */
  readonly gap: (j: number, o: number) => number;
}

/** The roots in ascending order: root i lies between poles i and i + 1, the last beyond the last pole. */
export interface SecularRoots {
  /** The pole that is nearest to each root. */
  readonly origin: Int32Array;
  /** Each root minus its origin. */
  readonly shift: Float64Array;
  /** Row i holds pⱼ - λᵢ for all j, `[k, k]`, to full relative accuracy. */
  readonly differences: Float64Array;
  /** The z of the problem that has the computed roots exactly. */
  readonly z: Float64Array;
}

const MAX_ITERATIONS = 100;
const UNIT_ROUNDOFF = Number.EPSILON / 2;

/**
 * Finds all roots. Vectors formed from the returned z and differences are orthogonal to working
 * precision however close the roots are: Gu & Eisenstat, A stable and efficient algorithm for the
 * rank-one modification of the symmetric eigenproblem, SIAM J. Matrix Anal. Appl. 15 (1994).
 *
 * @param differences - Storage of at least k² entries for the result.
 */
export function solveSecular(
  problem: SecularProblem,
  differences: Float64Array,
  subject: Subject,
): SecularRoots {
  const { z, gap } = problem;
  const k = z.length;
  const weights = z.map((x) => x * x);
  const origin = new Int32Array(k);
  const shift = new Float64Array(k);
  for (let i = 0; i < k; i++) {
    const poles = differences.subarray(i * k, (i + 1) * k);
    const bracket = chooseBracket(weights, poles, i, gap);
    const x = findRoot(weights, poles, i, bracket, subject);
    for (let j = 0; j < k; j++) poles[j]! -= x;
    origin[i] = bracket.origin;
    shift[i] = x;
  }
  return { origin, shift, differences, z: recomputeZ(problem, differences) };
}

/** Bounds of a root, relative to the pole `origin`; neither is 0. */
interface Bracket {
  readonly origin: number;
  readonly low: number;
  readonly high: number;
}

/**
 * Chooses the pole nearest to root `i` as the origin, by the sign of f in the middle of the interval, and
 * fills `poles` with the poles seen from there.
 */
function chooseBracket(
  weights: Float64Array,
  poles: Float64Array,
  i: number,
  gap: SecularProblem["gap"],
): Bracket {
  const k = weights.length;
  const placeOrigin = (origin: number): void => {
    for (let j = 0; j < k; j++) poles[j] = gap(j, origin);
  };
  placeOrigin(i);
  if (i === k - 1) {
    const high = weights.reduce((sum, w) => sum + w, 0);
    return { origin: i, low: distanceBound(weights, poles, i), high };
  }
  const middle = poles[i + 1]! / 2;
  if (evaluate(weights, poles, i, middle).value >= 0) {
    return { origin: i, low: distanceBound(weights, poles, i), high: middle };
  }
  placeOrigin(i + 1);
  return { origin: i + 1, low: poles[i]! / 2, high: -distanceBound(weights, poles, i + 1) };
}

/**
 * A lower bound on the distance of a root from its nearest pole: there the term of that pole equals the
 * sum of the others and 1, and a pole at distance δ from the origin is at least δ / 2 from the root.
 */
function distanceBound(weights: Float64Array, poles: Float64Array, origin: number): number {
  let others = 1;
  for (let j = 0; j < weights.length; j++) {
    if (j !== origin) others += (2 * weights[j]!) / Math.abs(poles[j]!);
  }
  return weights[origin]! / (2 * others);
}

/** The secular function f at one point, as the sum 1 + ψ + φ over the poles up to `split` and beyond. */
interface Value {
  readonly value: number;
  readonly psiSlope: number;
  readonly phiSlope: number;
  /** Bound on the rounding error of `value`, in units of the unit roundoff. */
  readonly error: number;
}

/** Sums towards the root, smallest terms first, with the running error bound of LAPACK `dlaed4`. */
function evaluate(weights: Float64Array, poles: Float64Array, split: number, x: number): Value {
  let psi = 0;
  let psiSlope = 0;
  let phi = 0;
  let phiSlope = 0;
  let partialSums = 0;
  for (let j = 0; j <= split; j++) {
    const inverse = 1 / (poles[j]! - x);
    const term = weights[j]! * inverse;
    psi += term;
    psiSlope += term * inverse;
    partialSums += Math.abs(psi);
  }
  for (let j = weights.length - 1; j > split; j--) {
    const inverse = 1 / (poles[j]! - x);
    const term = weights[j]! * inverse;
    phi += term;
    phiSlope += term * inverse;
    partialSums += Math.abs(phi);
  }
  const error =
    1 + 8 * (Math.abs(psi) + Math.abs(phi)) + partialSums + Math.abs(x) * (psiSlope + phiSlope);
  return { value: 1 + psi + phi, psiSlope, phiSlope, error };
}

/**
 * Rational interpolation inside a shrinking bracket: Li, Solving secular equations stably and
 * efficiently, LAPACK Working Note 89 (1993). While progress is slow, his two interpolants alternate and
 * every other step is a bisection.
 */
function findRoot(
  weights: Float64Array,
  poles: Float64Array,
  i: number,
  bracket: Bracket,
  subject: Subject,
): number {
  const k = weights.length;
  if (k === 1) return weights[0]!;
  const isLast = i === k - 1;
  const split = isLast ? k - 2 : i;
  const nearWeight = isLast ? undefined : weights[bracket.origin]!;
  let { low, high } = bracket;
  let x = (low + high) / 2;
  let weight = nearWeight;
  let previous = Infinity;
  let bisected = false;
  for (let iteration = 0; iteration < MAX_ITERATIONS; iteration++) {
    const f = evaluate(weights, poles, split, x);
    const magnitude = Math.abs(f.value);
    if (magnitude <= UNIT_ROUNDOFF * f.error) return x;
    if (f.value > 0) high = x;
    else low = x;

    let next = Number.NaN;
    if (magnitude > previous / 10 && !bisected) {
      weight = weight === undefined ? nearWeight : undefined;
    } else {
      const [a, b] = [poles[split]! - x, poles[split + 1]! - x];
      const constant = interpolantConstant(f, a, b, weight, bracket.origin === split);
      next = x + interpolationStep(f, a, b, constant, isLast);
    }
    previous = magnitude;
    bisected = !(next > low && next < high);
    if (bisected) next = middleOf(low, high);
    if (Math.abs(next - x) <= UNIT_ROUNDOFF * Math.abs(next)) return next;
    x = next;
  }
  return notConverged(subject, `${MAX_ITERATIONS} iterations of the secular equation`);
}

/** Geometric, because a root may lie many orders of magnitude closer to its pole than a bound. */
function middleOf(low: number, high: number): number {
  return Math.sign(low) * Math.sqrt(Math.abs(low)) * Math.sqrt(Math.abs(high));
}

/**
 * The constant of an interpolant with poles at a and b. Li's fixed weight method keeps the true weight
 * of the nearer pole; without one, his middle way takes the slopes of ψ and φ for the two poles.
 */
function interpolantConstant(
  f: Value,
  a: number,
  b: number,
  weight: number | undefined,
  nearFirst: boolean,
): number {
  if (weight === undefined) return f.value - a * f.psiSlope - b * f.phiSlope;
  const slope = f.psiSlope + f.phiSlope;
  return nearFirst
    ? f.value - b * slope - ((a - b) * weight) / (a * a)
    : f.value - a * slope - ((b - a) * weight) / (b * b);
}

/**
 * The zero η of constant + s / (a - η) + S / (b - η), where s and S match value and slope of f at 0:
 * the one between the poles, or the one beyond both.
 */
function interpolationStep(
  f: Value,
  a: number,
  b: number,
  constant: number,
  beyond: boolean,
): number {
  const slope = f.psiSlope + f.phiSlope;
  const linear = (a + b) * f.value - a * b * slope;
  const product = a * b * f.value;
  const root = Math.sqrt(Math.abs(linear * linear - 4 * product * constant));
  let step: number;
  if (beyond)
    step = linear >= 0 ? (linear + root) / (2 * constant) : (2 * product) / (linear - root);
  else step = linear <= 0 ? (linear - root) / (2 * constant) : (2 * product) / (linear + root);
  // f increases between its poles, so a step in the direction of f's sign is wrong: take Newton's.
  return f.value * step < 0 ? step : -f.value / slope;
}

/** Löwner's formula for z, its factors paired so that each ratio lies between 0 and 1. */
function recomputeZ({ z, gap }: SecularProblem, differences: Float64Array): Float64Array {
  const k = z.length;
  const squares = new Float64Array(k);
  for (let j = 0; j < k; j++) squares[j] = -differences[(k - 1) * k + j]!;
  for (let i = 0; i < k - 1; i++) {
    for (let j = 0; j < k; j++) {
      squares[j]! *= -differences[i * k + j]! / gap(j <= i ? i + 1 : i, j);
    }
  }
  return squares.map((square, j) => Math.sign(z[j]!) * Math.sqrt(Math.abs(square)));
}
