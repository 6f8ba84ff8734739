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
  /** The width of the feed-forward layers. */
  readonly intermediateSize: number;
  /** The number of tokens. */
  readonly vocabSize: number;
  /** The longest sequence that the model was made for, in tokens. */
  readonly contextLength: number;
  /** Epsilon of the layer norms. */
  readonly normEps: number;
  /** Whether the embedding matrix is also the output matrix. */
  readonly tiedEmbeddings: boolean;
  /** Rotary position embedding. */
  readonly rope: RopeConfig;
  /** The attention of every layer. */
  readonly attention: AttentionConfig;
  /** For each layer, how many positions a query sees, itself included; `undefined` for all. */
  readonly windows: readonly (number | undefined)[];
}

/** The attention of a model, by the form of its keys and values. */
export type AttentionConfig = GroupedAttention | FactoredAttention | LatentAttention;

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
  /** d_n: the width of a head's keys without RoPE. */
  readonly nopeDim: number;
  /** d_v: the width of a head's values. */
  readonly valueDim: number;
  /** Factor of the scores. */
  readonly scale: number;
}

/** Rotary position embedding as data: one frequency for each pair of components. */
export interface RopeConfig {
  /** Radians per position, one for each pair. */
  readonly frequencies: readonly number[];
  /** Pairs are components (2i, 2i+1) when true, (i, i + d/2) when false. */
  readonly interleaved: boolean;
  /** Factor of the cosines and sines (`attention_factor`); scores are multiplied by its square. */
  readonly tableScale: number;
}

/**
 * Numbers that one token adds to the cache of one layer.
 *
 * @param attention - The attention of the layer.
 * @returns `2 g d` for grouped, key rank + value rank for factored, `r + d_r` for latent attention.
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
  }
}
