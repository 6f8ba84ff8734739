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

/** What a layer caches, heads and width of each. */
export interface CacheStreams {
  /** What it caches of every position. */
  readonly streams: Readonly<Record<string, readonly [heads: number, width: number]>>;
  /** What it caches of the first position alone. */
  readonly first?: readonly [heads: number, width: number] | undefined;
}

/** What a layer caches. */
export function cacheStreams(attention: AttentionConfig, layer: number): CacheStreams {
  switch (attention.kind) {
    case "grouped": {
      const { kvHeads, headDim } = attention;
      return { streams: { keys: [kvHeads, headDim], values: [kvHeads, headDim] } };
    }
    case "factored":
      return { streams: { keys: [1, attention.keyRank], values: [1, attention.valueRank] } };
    case "latent":
      return { streams: { latent: [1, attention.latentRank + attention.ropeDim] } };
    case "projected": {
      const { kvHeads, headDim, exactFirst } = attention;
      const { latentRank, pairs } = attention.layers[layer]!;
      return {
        streams: { latent: [1, latentRank + 2 * pairs.length] },
        first: exactFirst ? [kvHeads, 2 * headDim] : undefined,
      };
    }
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
  const rowBytes = ([heads, width]: readonly [number, number]): number =>
    byteLength(dtype, heads * storedWidth(width, dtype));
  return config.windows.reduce<number>((total, window, layer) => {
    const { streams, first } = cacheStreams(config.attention, layer);
    const perRow = Object.values(streams).reduce((sum, shape) => sum + rowBytes(shape), 0);
    return total + heldPositions(positions, window) * perRow + (first ? rowBytes(first) : 0);
  }, 0);
}
