import { ArgumentError, fail } from "@transmla/core";

import type { CacheDType } from "../model/cache-size.ts";
import type { Model } from "../model/model.ts";

/** How many tokens pass the model at a time: bounds the logits that are held, `[chunk, vocab]`. */
const CHUNK = 128;

/**
 * Cuts token ids into consecutive windows that do not overlap. A last window of one token is dropped: it predicts nothing.
 *
 * @param ids - The whole text.
 * @param window - Tokens in a window.
 * @param maxWindows - The most windows.
 */
export function cutWindows(
  ids: readonly number[],
  window: number,
  maxWindows: number = Number.POSITIVE_INFINITY,
): number[][] {
  if (!Number.isInteger(window) || window < 2)
    fail(ArgumentError, "evaluate", `window ${window} must be at least 2`);
  const windows: number[][] = [];
  for (let start = 0; start + 1 < ids.length && windows.length < maxWindows; start += window) {
    windows.push(ids.slice(start, start + window));
  }
  return windows;
}

/** What {@link evaluate} measures. */
export interface Evaluation {
  /** exp of the mean negative log-likelihood. */
  readonly perplexity: number;
  /** Nats per predicted token. */
  readonly crossEntropy: number;
  /** Predicted tokens: all but the first of each window. */
  readonly tokens: number;
  /** Windows. */
  readonly windows: number;
}

/** What {@link compare} measures, over all positions of all windows. */
export interface Comparison {
  /** The largest absolute difference of a logit. */
  readonly maxLogitDifference: number;
  /** Mean over positions of KL(reference || other), in nats. */
  readonly meanKl: number;
  /** The share of positions at which both models prefer the same token. */
  readonly topAgreement: number;
  /** Positions compared. */
  readonly positions: number;
  /** Perplexity of each model on the same windows. */
  readonly perplexity: readonly [reference: number, other: number];
}

/** Choices of {@link evaluate} and {@link compare}. */
export interface EvaluationOptions {
  /** How caches are stored, but for that of the reference: `f32` when absent, and there always. */
  readonly cacheDType?: CacheDType | undefined;
  /** Called after each window. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  /** Stops between chunks. */
  readonly signal?: AbortSignal | undefined;
}

/** Runs a window through models side by side; yields the logits of each chunk, one array for each model. */
async function* chunkLogits(
  models: readonly Model[],
  dtypes: readonly (CacheDType | undefined)[],
  window: readonly number[],
  signal: AbortSignal | undefined,
): AsyncGenerator<{
  readonly start: number;
  readonly ids: readonly number[];
  readonly logits: readonly Float32Array[];
}> {
  const caches = models.map((model, i) => model.createCache(window.length, dtypes[i]));
  try {
    for (let start = 0; start < window.length; start += CHUNK) {
      signal?.throwIfAborted();
      const ids = window.slice(start, start + CHUNK);
      const logits: Float32Array[] = [];
      for (const [i, model] of models.entries()) {
        using all = model.forward(ids, caches[i]!, { logits: "all" });
        logits.push(await all.read());
      }
      yield { start, ids, logits };
    }
  } finally {
    for (const cache of caches) cache[Symbol.dispose]();
  }
}

/** One row of logits with its log-sum-exp, so that `logits[row + i] - norm` is a log-probability. */
function logNorm(logits: Float32Array, row: number, vocab: number): number {
  let largest = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < vocab; i++) largest = Math.max(largest, logits[row + i]!);
  let total = 0;
  for (let i = 0; i < vocab; i++) total += Math.exp(logits[row + i]! - largest);
  return largest + Math.log(total);
}

/**
 * Measures the perplexity of a model. Each window starts with an empty cache.
 *
 * @param model - The model.
 * @param windows - Token ids, at least one window of two.
 * @param options - Progress and abort.
 */
export async function evaluate(
  model: Model,
  windows: readonly (readonly number[])[],
  options: EvaluationOptions = {},
): Promise<Evaluation> {
  requireWindows(windows);
  const vocab = model.config.vocabSize;
  let loss = 0;
  let tokens = 0;
  for (const [n, window] of windows.entries()) {
    const chunks = chunkLogits([model], [options.cacheDType], window, options.signal);
    for await (const { start, ids, logits } of chunks) {
      for (let t = 0; t < ids.length && start + t + 1 < window.length; t++) {
        loss +=
          logNorm(logits[0]!, t * vocab, vocab) - logits[0]![t * vocab + window[start + t + 1]!]!;
        tokens++;
      }
    }
    options.onProgress?.(n + 1, windows.length);
  }
  return {
    perplexity: Math.exp(loss / tokens),
    crossEntropy: loss / tokens,
    tokens,
    windows: windows.length,
  };
}

/**
 * Compares the predictions of models with those of a reference on the same tokens.
 *
 * @param reference - The reference; it runs once for all.
 * @param others - Models of the same vocabulary.
 * @param windows - Token ids, at least one window of two.
 * @param options - Progress and abort.
 * @returns One comparison for each of the others.
 */
export async function compare(
  reference: Model,
  others: readonly Model[],
  windows: readonly (readonly number[])[],
  options: EvaluationOptions = {},
): Promise<Comparison[]> {
  const vocab = reference.config.vocabSize;
  for (const { config } of others) {
    if (config.vocabSize === vocab) continue;
    fail(ArgumentError, "compare", `the vocabularies have ${vocab} and ${config.vocabSize} tokens`);
  }
  requireWindows(windows);
  const dtypes = [undefined, ...others.map(() => options.cacheDType)];
  const meters = others.map(() => new ComparisonMeter());
  for (const [n, window] of windows.entries()) {
    const chunks = chunkLogits([reference, ...others], dtypes, window, options.signal);
    for await (const { start, ids, logits } of chunks) {
      const [expected, ...found] = logits as [Float32Array, ...Float32Array[]];
      for (let t = 0; t < ids.length; t++) {
        const row = expected.subarray(t * vocab, (t + 1) * vocab);
        const norm = logNorm(expected, t * vocab, vocab);
        found.forEach((all, i) => {
          const other = all.subarray(t * vocab, (t + 1) * vocab);
          meters[i]!.add(row, norm, other, logNorm(all, t * vocab, vocab), window[start + t + 1]);
        });
      }
    }
    options.onProgress?.(n + 1, windows.length);
  }
  return meters.map((meter) => meter.comparison());
}

/** Accumulates what {@link compare} measures of one model. */
class ComparisonMeter {
  #difference = 0;
  #kl = 0;
  #agreements = 0;
  #positions = 0;
  #tokens = 0;
  readonly #loss: [reference: number, other: number] = [0, 0];

  /** Adds one position: logits and log-sum-exp of both models, and the token that came next, if any. */
  add(
    p: Float32Array,
    normP: number,
    q: Float32Array,
    normQ: number,
    next: number | undefined,
  ): void {
    let [bestP, bestQ] = [0, 0];
    for (let i = 0; i < p.length; i++) {
      const difference = Math.abs(p[i]! - q[i]!);
      if (difference > this.#difference || Number.isNaN(difference)) this.#difference = difference; // NaN stays
      const logP = p[i]! - normP;
      this.#kl += Math.exp(logP) * (logP - (q[i]! - normQ));
      if (p[i]! > p[bestP]!) bestP = i;
      if (q[i]! > q[bestQ]!) bestQ = i;
    }
    this.#agreements += Number(bestP === bestQ);
    this.#positions++;
    if (next === undefined) return;
    this.#tokens++;
    this.#loss[0] += normP - p[next]!;
    this.#loss[1] += normQ - q[next]!;
  }

  comparison(): Comparison {
    return {
      maxLogitDifference: this.#difference,
      meanKl: this.#kl / this.#positions,
      topAgreement: this.#agreements / this.#positions,
      positions: this.#positions,
      perplexity: [Math.exp(this.#loss[0] / this.#tokens), Math.exp(this.#loss[1] / this.#tokens)],
    };
  }
}

function requireWindows(windows: readonly (readonly number[])[]): void {
  if (!windows.some((window) => window.length > 1)) {
    fail(
      ArgumentError,
      "evaluate",
      "the text has fewer than two tokens; there is nothing to predict",
    );
  }
}
