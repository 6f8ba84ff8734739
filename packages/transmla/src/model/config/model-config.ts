import type { GateFunction } from "@transmla/core";

/** A parsed Hugging Face `config.json`. */
export type HuggingFaceConfig = Readonly<Record<string, unknown>>;

/** What a decoder is, as plain data: everything the forward pass needs besides the weights. */
export interface ModelConfig {
  /** The architecture family: `llama`, `qwen2`, `deepseek_v3` ... */
  readonly family: string;
  /** The number of layers. */
  readonly layers: number;
  /** The width of the residual stream. */
  readonly hiddenSize: number;
  /** The width of the dense feed-forward layers. */
  readonly intermediateSize: number;
  /** The number of tokens. */
  readonly vocabSize: number;
  /** The longest sequence that the model was made for, in tokens. */
  readonly contextLength: number;
  /** Epsilon of the layer norms. */
  readonly normEps: number;
  /** Added to every norm weight: 1 in Gemma, else 0. */
  readonly normOffset: 0 | 1;
  /** The norms of a layer, by their names in the checkpoint. */
  readonly norms: NormNames;
  /** The gate of the feed-forward layers. */
  readonly activation: GateFunction;
  /** Factor of the embeddings. */
  readonly embeddingScale: number;
  /** Soft cap of the logits. */
  readonly logitCap: number | undefined;
  /** Soft cap of the attention scores. */
  readonly scoreCap: number | undefined;
  /** Whether the embedding matrix is also the output matrix. */
  readonly tiedEmbeddings: boolean;
  /** The attention of every layer. */
  readonly attention: AttentionConfig;
  /** For each layer its rotary position embedding; `undefined` for a layer without positions. */
  readonly ropes: readonly (RopeConfig | undefined)[];
  /** For each layer, how many positions a query sees, itself included; `undefined` for all. */
  readonly windows: readonly (number | undefined)[];
  /** For each layer its experts; `undefined` for a dense feed-forward layer. */
  readonly experts: readonly (ExpertsConfig | undefined)[];
}

/** The norms around the two branches of a layer. */
export interface NormNames {
  /** On the way into the attention. */
  readonly attention: string;
  /** On the way out of the attention, if there is one. */
  readonly attentionOut?: string;
  /** On the way into the feed-forward layer. */
  readonly feedForward: string;
  /** On the way out of the feed-forward layer, if there is one. */
  readonly feedForwardOut?: string;
}

/** A mixture of experts: a router chooses a few gated feed-forward layers for each token. */
export interface ExpertsConfig {
  /** The number of experts. */
  readonly count: number;
  /** How many serve a token. */
  readonly perToken: number;
  /** The width of an expert. */
  readonly width: number;
  /** How scores follow from router logits. */
  readonly scoring: "softmax" | "sigmoid";
  /** Whether the scores of the chosen experts are divided by their sum. */
  readonly normalised: boolean;
  /** Factor of the scores of the chosen experts. */
  readonly scale: number;
  /** Experts are chosen from a few groups only, which their best expert or the sum of their best two decides. */
  readonly groups: ExpertGroups | undefined;
  /** The width of the shared expert that serves every token; 0 for none. */
  readonly sharedWidth: number;
  /** Where the tensors are. */
  readonly names: ExpertNames;
}

/** Groups of experts (DeepSeek-V2, arXiv 2405.04434, section 2.2.2; DeepSeek-V3, arXiv 2412.19437, section 2.1.2). */
export interface ExpertGroups {
  /** The number of groups. */
  readonly count: number;
  /** How many are kept. */
  readonly kept: number;
  /** How many of a group's best scores are added to rank it: 1 in DeepSeek-V2, 2 in V3. */
  readonly ranked: 1 | 2;
}

/** Names of expert tensors below a layer. */
export interface ExpertNames {
  /** `mlp` or `block_sparse_moe`. */
  readonly prefix: string;
  /** The three projections of an expert. */
  readonly gate: string;
  /** Up. */
  readonly up: string;
  /** Down. */
  readonly down: string;
}

/** The attention of a model, by the form of its keys and values. */
export type AttentionConfig =
  | GroupedAttention
  | FactoredAttention
  | LatentAttention
  | ProjectedAttention;

/** Multi-head, grouped-query or multi-query attention: caches keys and values of each kv head. */
export interface GroupedAttention {
  /** Tells the forms apart. */
  readonly kind: "grouped";
  /** H: query heads. */
  readonly heads: number;
  /** g: key and value heads; divides H. */
  readonly kvHeads: number;
  /** d: the width of a head. */
  readonly headDim: number;
  /** Factor of the scores. */
  readonly scale: number;
}

/** TransMLA v1 (arXiv 2502.07864): keys and values of every query head from two cached latents, RoPE after the up-projection. */
export interface FactoredAttention {
  /** Tells the forms apart. */
  readonly kind: "factored";
  /** H: heads. */
  readonly heads: number;
  /** d: the width of a head. */
  readonly headDim: number;
  /** The width of the cached key latent. */
  readonly keyRank: number;
  /** The width of the cached value latent. */
  readonly valueRank: number;
  /** Factor of the scores. */
  readonly scale: number;
}

/** Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): caches one latent and one shared rope key. */
export interface LatentAttention {
  /** Tells the forms apart. */
  readonly kind: "latent";
  /** H: heads. */
  readonly heads: number;
  /** The rank of the query projection, if it is factored. */
  readonly queryRank: number | undefined;
  /** r: the width of the cached latent. */
  readonly latentRank: number;
  /** d_r: the width of the shared rope key. */
  readonly ropeDim: number;
  /** The width that is normalised and rotated as one head: d_r, or less where the shared key is several side by side. */
  readonly blockDim: number;
  /** d_n: the width of a head's keys without RoPE. */
  readonly nopeDim: number;
  /** d_v: the width of a head's values. */
  readonly valueDim: number;
  /** Whether latents are normalised, as in DeepSeek. */
  readonly normed: boolean;
  /** Factor of the scores. */
  readonly scale: number;
}

/**
 * Latent attention in the format of this library: queries, keys and values are those of the source, and what is cached
 * is a linear projection of the keys and values of all kv heads, of other sizes in every layer. Each head reads it
 * through a map of its own, and adds scores that depend on its query and on the distance alone.
 */
export interface ProjectedAttention {
  /** Tells the forms apart. */
  readonly kind: "projected";
  /** H: query heads. */
  readonly heads: number;
  /** g: key and value heads of the source; divides H. */
  readonly kvHeads: number;
  /** d: the width of a head. */
  readonly headDim: number;
  /** Factor of the scores. */
  readonly scale: number;
  /** Whether the first position is cached exactly too: the keys and values of all kv heads, once for each sequence. */
  readonly exactFirst: boolean;
  /** The sizes of each layer. */
  readonly layers: readonly ProjectedLayer[];
}

/** The sizes of a layer of {@link ProjectedAttention}. */
export interface ProjectedLayer {
  /** r: the width of the latent. */
  readonly latentRank: number;
  /** For each pair of the shared rotated key, which RoPE pair of a head lends its frequency; a pair may lend it often. */
  readonly pairs: readonly number[];
}

/** Rotary position embedding as data: one frequency for each pair of components. */
export interface RopeConfig {
  /** Radians per position, one for each pair. Components beyond the pairs of a head are not rotated. */
  readonly frequencies: readonly number[];
  /** Pairs are components (2i, 2i+1) when true, (i, i + n) of n pairs when false. */
  readonly interleaved: boolean;
  /** Factor of the cosines and sines (`attention_factor`); scores are multiplied by its square. */
  readonly tableScale: number;
  /** Other frequencies for tokens that enter when the sequence is long (LongRoPE). */
  readonly long?: LongFrequencies | undefined;
  /** A base that grows with the sequence (dynamic NTK). */
  readonly dynamic?: DynamicBase | undefined;
}

/** Frequencies of long sequences. */
export interface LongFrequencies {
  /** They count for sequences of more positions than this. */
  readonly above: number;
  /** Radians per position, one for each pair. */
  readonly frequencies: readonly number[];
}

/** A rotary base that grows with the sequence. */
export interface DynamicBase {
  /** It grows for sequences of more positions than this. */
  readonly above: number;
  /** How fast it grows. */
  readonly factor: number;
  /** The base up to there. */
  readonly theta: number;
}

/**
 * Numbers that one token adds to the cache of one layer, on average over layers.
 *
 * @param attention - The attention of the model.
 * @returns `2 g d` for grouped, key rank + value rank for factored, `r + d_r` for latent and projected attention.
 *
 * @example
 * ```ts
 * import { cacheWidth } from "transmla";
 * console.log(cacheWidth({ kind: "grouped", heads: 32, kvHeads: 8, headDim: 128, scale: 128 ** -0.5 })); // => 2048
 * ```
 */
export function cacheWidth(attention: AttentionConfig): number {
  switch (attention.kind) {
    case "grouped":
      return 2 * attention.kvHeads * attention.headDim;
    case "factored":
      return attention.keyRank + attention.valueRank;
    case "latent":
      return attention.latentRank + attention.ropeDim;
    case "projected":
      return (
        attention.layers.reduce(
          (sum, { latentRank, pairs }) => sum + latentRank + 2 * pairs.length,
          0,
        ) / attention.layers.length
      );
  }
}

/**
 * Numbers that one sequence adds to the cache of one layer, however long it is.
 *
 * @param attention - The attention of the model.
 * @returns `2 g d` for projected attention with an exact first position, 0 for every other.
 */
export function cacheConstant(attention: AttentionConfig): number {
  if (attention.kind !== "projected" || !attention.exactFirst) return 0;
  return 2 * attention.kvHeads * attention.headDim;
}
