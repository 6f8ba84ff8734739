import { assign, cast, empty, gather, scope, topK, type Tensor } from "@transmla/core";

import type { KeyValueCache } from "../model/cache.ts";
import type { Model } from "../model/model.ts";

/** The logits that decide about the next token. */
export interface NextLogits {
  /** All of them, or the largest ones in descending order. */
  readonly logits: Float32Array;
  /** The token of each logit; absent where they are all there, in the order of their ids. */
  readonly ids?: Int32Array;
}

/**
 * Runs tokens through the model and reads the logits of the last one.
 *
 * @param model - The model.
 * @param tokens - At least one.
 * @param cache - The sequence, to which they are appended.
 * @param largest - How many of the largest logits are wanted; all when absent. Reading few of them saves a device the copy
 *   of the others.
 */
export async function nextLogits(
  model: Model,
  tokens: readonly number[],
  cache: KeyValueCache,
  largest: number | undefined,
): Promise<NextLogits> {
  using logits = model.forward(tokens, cache);
  if (largest === undefined || 2 * largest >= logits.size) return { logits: await logits.read() };
  using pairs = scope(() => largestPairs(logits, largest));
  const read = await pairs.read();
  // What is wrong with the logits is found, and said, where all of them are.
  if (!Number.isFinite(read[0])) return { logits: await logits.read() };
  return { logits: read.slice(0, largest), ids: Int32Array.from(read.subarray(largest)) };
}

/** `[2, k]`: the largest logits, and their tokens as f32, which is exact below 2^24. One tensor is one read. */
function largestPairs(logits: Tensor, k: number): Tensor {
  const row = logits.reshape([logits.size]);
  const tokens = topK(row, k);
  const pairs = empty(logits.backend, [2, k]);
  assign(pairs.slice(0, 0, 1), gather(row.reshape([logits.size, 1]), tokens).reshape([1, k]));
  assign(pairs.slice(0, 1, 2), cast(tokens, "f32").reshape([1, k]));
  return pairs;
}
