import { ArgumentError, fail } from "@transmla/core";

import { countUp, takeLargest } from "./largest.ts";
import { createRandom } from "./random.ts";

/** How the next token is chosen from the logits. */
export interface SamplingOptions {
  /**
   * What the logits are divided by; 0 takes the most probable token. When absent it is 1 if `topK`, `topP` or `minP` is
   * given, and 0 otherwise.
   */
  readonly temperature?: number | undefined;
  /** How many of the most probable tokens remain; 0 for all. */
  readonly topK?: number | undefined;
  /** The most probable tokens remain whose probabilities just reach this sum; above 0, at most 1. */
  readonly topP?: number | undefined;
  /** Tokens remain that have at least this share of the greatest probability; from 0 to 1. */
  readonly minP?: number | undefined;
  /** Positive logits of earlier tokens are divided by this, negative ones multiplied; above 0, and 1 for no effect. */
  readonly repetitionPenalty?: number | undefined;
  /** Makes the choices repeatable: an integer from 0 to 2^53 - 1. Drawn at random when absent. */
  readonly seed?: number | undefined;
}

/**
 * Chooses the next token.
 *
 * @param logits - One for each token; they stay as they are.
 * @param previous - The tokens so far, prompt included.
 * @returns A token id.
 */
export type Sampler = (logits: Float32Array, previous: readonly number[]) => number;

/** The tokens that remain after all filters. */
export interface Candidates {
  /** Token ids. */
  readonly ids: Int32Array;
  /** Their probabilities, of sum 1. */
  readonly probabilities: Float64Array;
}

/**
 * Makes a sampler. As in Hugging Face Transformers the order is repetition penalty, temperature, top-k, top-p, min-p,
 * each on the probabilities that the one before leaves.
 *
 * @param options - Temperature, filters, seed; fields of other names are ignored.
 * @throws ArgumentError for a value out of bounds.
 *
 * @example
 * ```ts
 * import { createSampler } from "transmla";
 * const logits = Float32Array.of(1, 3, 2);
 * console.log(createSampler({})(logits, [])); // => 1
 * console.log(createSampler({ repetitionPenalty: 2 })(logits, [1])); // => 2
 * const sample = createSampler({ temperature: 0.8, topP: 0.9, seed: 1 });
 * console.log([0, 1, 2].includes(sample(logits, []))); // => true
 * ```
 */
export function createSampler(options: SamplingOptions): Sampler {
  checkOptions(options);
  const random = createRandom(options.seed ?? Math.floor(Math.random() * 2 ** 53));
  const greedy = temperatureOf(options) === 0;
  return (logits, previous) => {
    const scores = penalise(logits, previous, options.repetitionPenalty ?? 1);
    return greedy ? mostProbable(scores) : draw(selectCandidates(scores, options), random());
  };
}

/**
 * How many of the largest logits decide about the next token, whatever the others are; undefined where all may matter.
 *
 * @param options - As for {@link createSampler}.
 */
export function decidingLogits(options: SamplingOptions): number | undefined {
  if ((options.repetitionPenalty ?? 1) !== 1) return undefined;
  if (temperatureOf(options) === 0) return 1;
  return options.topK === 0 ? undefined : options.topK;
}

/**
 * The index of the greatest logit, of the lowest id among equals.
 *
 * @param logits - One for each token.
 * @throws ArgumentError when there is none or one is not a number.
 */
export function mostProbable(logits: Float32Array): number {
  let best = 0;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!;
    if (logit > logits[best]!) best = id;
    if (Number.isNaN(logit) || logit === Number.POSITIVE_INFINITY) {
      fail(ArgumentError, "generate", `the logit of token ${id} is ${logit}`);
    }
  }
  if (!(logits[best]! > Number.NEGATIVE_INFINITY)) {
    fail(ArgumentError, "generate", `none of ${logits.length} logits is a finite number`);
  }
  return best;
}

/**
 * Lowers the logits of tokens that occurred (Keskar et al., CTRL, arXiv 1909.05858, section 4.1).
 *
 * @param logits - One for each token.
 * @param previous - The tokens so far; each counts once.
 * @param penalty - Above 1 discourages, below 1 encourages.
 * @returns New logits, or the given ones when the penalty is 1.
 */
export function penalise(
  logits: Float32Array,
  previous: readonly number[],
  penalty: number,
): Float32Array {
  if (penalty === 1) return logits;
  const penalised = logits.slice();
  for (const id of previous) {
    const logit = logits[id];
    if (logit === undefined) {
      return fail(ArgumentError, "generate", `token ${id} is beyond the ${logits.length} logits`);
    }
    penalised[id] = logit > 0 ? logit / penalty : logit * penalty;
  }
  return penalised;
}

/**
 * The distribution that is sampled from, without the repetition penalty. Only as many logits are sorted as the filters
 * let pass.
 *
 * @param logits - One for each token.
 * @param options - Temperature above 0, and filters.
 * @returns Without a filter all tokens in the order of their ids, otherwise from the most probable on.
 */
export function selectCandidates(logits: Float32Array, options: SamplingOptions): Candidates {
  const { topK = 0, topP = 1, minP = 0 } = options;
  const temperature = temperatureOf(options);
  const greatest = logits[mostProbable(logits)]!;
  const weigh = (logit: number): number => Math.exp((logit - greatest) / temperature); // at most 1
  const limit = topK === 0 ? logits.length : Math.min(topK, logits.length);
  if (limit === logits.length && topP === 1 && minP === 0) {
    return normalise(countUp(logits.length), new Float64Array(logits).map(weigh));
  }
  // Each filter keeps the first so many in descending order, so the result is the shortest of them.
  const top = limit < logits.length ? [...takeLargest(logits, limit)] : undefined;
  const remaining = top ? Float32Array.from(top, (id) => logits[id]!) : logits;
  const mass = topP < 1 ? remaining.reduce((sum, logit) => sum + weigh(logit), 0) : Infinity;
  const ids: number[] = [];
  const weights: number[] = [];
  let reached = 0;
  for (const id of top ?? takeLargest(logits, limit)) {
    const weight = weigh(logits[id]!);
    if (weight < minP || reached >= topP * mass) break;
    ids.push(id);
    weights.push(weight);
    reached += weight;
  }
  return normalise(Int32Array.from(ids), Float64Array.from(weights));
}

function normalise(ids: Int32Array, weights: Float64Array): Candidates {
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return { ids, probabilities: weights.map((weight) => weight / sum) };
}

/** The candidate at a point of [0, 1) when the probabilities lie side by side. */
function draw({ ids, probabilities }: Candidates, point: number): number {
  let last = 0;
  let reached = 0;
  for (let i = 0; i < ids.length && reached <= point; i++) {
    const probability = probabilities[i]!;
    reached += probability;
    // Rounding may leave the sum below the point: then it is the last that is possible.
    if (probability > 0) last = i;
  }
  return ids[last]!;
}

function temperatureOf({ temperature, topK, topP, minP }: SamplingOptions): number {
  return temperature ?? ([topK, topP, minP].every((value) => value === undefined) ? 0 : 1);
}

function checkOptions(options: SamplingOptions): void {
  const check = (
    name: keyof SamplingOptions,
    bound: string,
    accepts: (value: number) => boolean,
  ): void => {
    const value = options[name];
    if (value !== undefined && !accepts(value)) {
      fail(ArgumentError, "generate", `${name} ${value} must be ${bound}`);
    }
  };
  check("temperature", "at least 0", (x) => x >= 0 && x < Number.POSITIVE_INFINITY);
  check("topK", "an integer of at least 0", (x) => Number.isSafeInteger(x) && x >= 0);
  check("topP", "above 0 and at most 1", (x) => x > 0 && x <= 1);
  check("minP", "from 0 to 1", (x) => x >= 0 && x <= 1);
  check("repetitionPenalty", "above 0", (x) => x > 0 && x < Number.POSITIVE_INFINITY);
}
