import { BLOCK_SIZE, byteLength, isBlock } from "@transmla/core";

import type { AttentionConfig, ModelConfig } from "./config/model-config.ts";

/** How cached numbers may be stored: see `DType`. */
export type CacheDType = "f32" | "f16" | "bf16" | "q8";

/** All of them. */
export const cacheDTypes: readonly CacheDType[] = ["f32", "f16", "bf16", "q8"];

/** Rows that a layer with a window holds beyond its window, so that old rows are moved out of the way only now and then. */
const SLACK = 64;

/**
 * How many positions a layer holds of a sequence.
 *
 * @param positions - Of the sequence.
 * @param window - How many a query sees; `undefined` for all.
 */
export function heldPositions(positions: number, window: number | undefined): number {
  return window === undefined ? positions : Math.min(positions, window - 1 + SLACK);
}

/** The streams of a layer's cache, with heads and width of each. */
export function cacheStreams(
  attention: AttentionConfig,
): Readonly<Record<string, readonly [heads: number, width: number]>> {
  switch (attention.kind) {
    case "grouped": {
      const { kvHeads, headDim } = attention;
      return { keys: [kvHeads, headDim], values: [kvHeads, headDim] };
    }
    case "factored":
      return { keys: [1, attention.keyRank], values: [1, attention.valueRank] };
    case "latent":
      return { latent: [1, attention.latentRank + attention.ropeDim] };
  }
}

/**
 * The elements that a row takes: whole blocks where the dtype has them.
 *
 * @param width - The elements that it has.
 * @param dtype - How they are stored.
 */
export function storedWidth(width: number, dtype: CacheDType): number {
  return isBlock(dtype) ? Math.ceil(width / BLOCK_SIZE) * BLOCK_SIZE : width;
}

/**
 * Bytes of a cache for one sequence; layers with a window hold little more than their window.
 *
 * @param config - The model.
 * @param positions - The capacity.
 * @param dtype - How cached numbers are stored.
 */
export function cacheBytes(config: ModelConfig, positions: number, dtype: CacheDType): number {
  const perRow = Object.values(cacheStreams(config.attention)).reduce((sum, [heads, width]) => {
    return sum + byteLength(dtype, heads * storedWidth(width, dtype));
  }, 0);
  return config.windows.reduce<number>(
    (sum, window) => sum + heldPositions(positions, window) * perRow,
    0,
  );
}
