import { ArgumentError, fail } from "@transmla/core";

import type { Model } from "../model/model.ts";

/** How many tokens pass the model at a time: bounds the logits that are held, `[chunk, vocab]`. */
const CHUNK = 128;

/** How a text is cut into windows. */
export interface WindowOptions {
  /** Tokens in a window; the context length, at most 512, when absent. */
  readonly window?: number | undefined;
  /** The most windows; all when absent. */
  readonly maxWindows?: number | undefined;
}

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
  maxWindows = Number.POSITIVE_INFINITY,
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
  /** Mean over positions of KL(a || b), in nats. */
  readonly meanKl: number;
  /** The share of positions at which both models prefer the same token. */
  readonly topAgreement: number;
  /** Positions compared. */
  readonly positions: number;
  /** Perplexity of each model on the same windows. */
  readonly perplexity: readonly [a: number, b: number];
}

/** Choices of {@link evaluate} and {@link compare}. */
export interface EvaluationOptions {
  /** Called after each window. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
  /** Stops between chunks. */
  readonly signal?: AbortSignal | undefined;
}

/** Runs a window through models side by side; yields the logits of each chunk, one array for each model. */
async function* chunkLogits(
  models: readonly Model[],
  window: readonly number[],
  signal: AbortSignal | undefined,
): AsyncGenerator<{
  readonly start: number;
  readonly ids: readonly number[];
  readonly logits: readonly Float32Array[];
}> {
  const caches = models.map((model) => model.createCache(window.length));
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
    for await (const { start, ids, logits } of chunkLogits([model], window, options.signal)) {
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
 * Compares the predictions of two models on the same tokens.
 *
 * @param a - The reference.
 * @param b - The model under test, of the same vocabulary.
 * @param windows - Token ids, at least one window of two.
 * @param options - Progress and abort.
 */
export async function compare(
  a: Model,
  b: Model,
  windows: readonly (readonly number[])[],
  options: EvaluationOptions = {},
): Promise<Comparison> {
  const vocab = a.config.vocabSize;
  if (b.config.vocabSize !== vocab) {
    fail(
      ArgumentError,
      "compare",
      `the vocabularies have ${vocab} and ${b.config.vocabSize} tokens`,
    );
  }
  requireWindows(windows);
  const sums = {
    difference: 0,
    kl: 0,
    agree: 0,
    positions: 0,
    tokens: 0,
    loss: [0, 0] as [number, number],
  };
  for (const [n, window] of windows.entries()) {
    for await (const { start, ids, logits } of chunkLogits([a, b], window, options.signal)) {
      const [p, q] = logits as [Float32Array, Float32Array];
      for (let t = 0; t < ids.length; t++) {
        const row = t * vocab;
        const norms = [logNorm(p, row, vocab), logNorm(q, row, vocab)] as const;
        accumulateRow(sums, p.subarray(row, row + vocab), q.subarray(row, row + vocab), norms);
        const next = window[start + t + 1];
        if (next === undefined) continue;
        sums.tokens++;
        sums.loss[0] += norms[0] - p[row + next]!;
        sums.loss[1] += norms[1] - q[row + next]!;
      }
    }
    options.onProgress?.(n + 1, windows.length);
  }
  return {
    maxLogitDifference: sums.difference,
    meanKl: sums.kl / sums.positions,
    topAgreement: sums.agree / sums.positions,
    positions: sums.positions,
    perplexity: [Math.exp(sums.loss[0] / sums.tokens), Math.exp(sums.loss[1] / sums.tokens)],
  };
}

function accumulateRow(
  sums: { difference: number; kl: number; agree: number; positions: number },
  p: Float32Array,
  q: Float32Array,
  norms: readonly [number, number],
): void {
  let kl = 0;
  let [bestP, bestQ] = [0, 0];
  for (let i = 0; i < p.length; i++) {
    const difference = Math.abs(p[i]! - q[i]!);
    if (difference > sums.difference || Number.isNaN(difference)) sums.difference = difference; // NaN stays
    const logP = p[i]! - norms[0];
    kl += Math.exp(logP) * (logP - (q[i]! - norms[1]));
    if (p[i]! > p[bestP]!) bestP = i;
    if (q[i]! > q[bestQ]!) bestQ = i;
  }
  sums.kl += kl;
  sums.agree += Number(bestP === bestQ);
  sums.positions++;
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
