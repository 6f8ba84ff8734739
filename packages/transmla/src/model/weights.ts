import type { Shape } from "@transmla/core";

// The weights of a model under the names of Hugging Face checkpoints. T is what a weight is: a tensor on a backend
// when a model runs, a matrix in f64 when one is converted, a shape when a checkpoint is laid out.

/** A linear layer, stored output first: `y = x weightᵀ + bias`. */
export interface Linear<T> {
  readonly weight: T;
  readonly bias: T | undefined;
}

/** Norms over the width of each query and key head, before RoPE, where a family has them. */
export interface HeadNorms<T> {
  /** `q_norm`. */
  readonly queryNorm?: T | undefined;
  /** `k_norm`. */
  readonly keyNorm?: T | undefined;
}

/** Grouped-query attention: `q_proj`, `k_proj`, `v_proj`, `o_proj`. */
export interface GroupedWeights<T> extends HeadNorms<T> {
  readonly q: Linear<T>;
  readonly k: Linear<T>;
  readonly v: Linear<T>;
  readonly o: Linear<T>;
}

/** TransMLA v1: keys are `k_b(k_a(x))`, values `v_b(v_a(x))`. */
export interface FactoredWeights<T> extends HeadNorms<T> {
  readonly q: Linear<T>;
  readonly keyDown: Linear<T>;
  readonly keyUp: Linear<T>;
  readonly valueDown: Linear<T>;
  readonly valueUp: Linear<T>;
  readonly o: Linear<T>;
}

/** The query path of latent attention: direct, or through a normalised low-rank latent. */
export type LatentQueryWeights<T> =
  | { readonly kind: "direct"; readonly q: Linear<T> }
  | {
      readonly kind: "low rank";
      readonly down: Linear<T>;
      readonly norm: T;
      readonly up: Linear<T>;
    };

/** Multi-head latent attention with the names of DeepSeek-V3. */
export interface LatentWeights<T> extends HeadNorms<T> {
  readonly query: LatentQueryWeights<T>;
  /** `kv_a_proj_with_mqa`: latent rows, then the rows of the shared rope key. */
  readonly down: Linear<T>;
  /** `kv_a_layernorm`, where latents are normalised. */
  readonly norm: T | undefined;
  /** `kv_b_proj`: for each head its nope keys, then its values. */
  readonly up: Linear<T>;
  readonly o: Linear<T>;
}

/** Projected attention: the projections of the source, and what reads and writes its cache. */
export interface ProjectedWeights<T> extends GroupedWeights<T> {
  /** `kv_a_proj`: from the keys before RoPE and the values of all kv heads to latent and rotated key. */
  readonly down: Linear<T>;
  /** `kv_b_proj`: for each head its keys without rotation, then its values. */
  readonly up: Linear<T>;
  /** `q_b_proj`: for each head, from its query to the queries of the rotated key, then of the positions. */
  readonly queryUp: T;
}

/** The attention weights of a layer. */
export type AttentionWeights<T> =
  | ({ readonly kind: "grouped" } & GroupedWeights<T>)
  | ({ readonly kind: "factored" } & FactoredWeights<T>)
  | ({ readonly kind: "latent" } & LatentWeights<T>)
  | ({ readonly kind: "projected" } & ProjectedWeights<T>);

/** A gated feed-forward layer: `down(act(gate(x)) * up(x))`. */
export interface DenseWeights<T> {
  readonly gate: Linear<T>;
  readonly up: Linear<T>;
  readonly down: Linear<T>;
}

/** A mixture of experts; the projections of all experts are stacked, `[experts, out, in]`. */
export interface ExpertsWeights<T> {
  /** `[experts, hidden]`. */
  readonly router: T;
  /** Added to the scores when experts are chosen: `e_score_correction_bias`. */
  readonly correction: T | undefined;
  readonly gate: T;
  readonly up: T;
  readonly down: T;
  /** The expert that serves every token. */
  readonly shared: DenseWeights<T> | undefined;
}

/** The feed-forward weights of a layer. */
export type FeedForwardWeights<T> =
  | ({ readonly kind: "dense" } & DenseWeights<T>)
  | ({ readonly kind: "experts" } & ExpertsWeights<T>);

/** One decoder layer. */
export interface LayerWeights<T> {
  readonly attentionNorm: T;
  readonly attention: AttentionWeights<T>;
  readonly attentionOutNorm: T | undefined;
  readonly feedForwardNorm: T;
  readonly feedForward: FeedForwardWeights<T>;
  readonly feedForwardOutNorm: T | undefined;
}

/** All weights of a model. */
export interface ModelWeights<T> {
  readonly embeddings: T;
  readonly layers: readonly LayerWeights<T>[];
  readonly norm: T;
  /** The output matrix; the embeddings when they are tied. */
  readonly head: T;
}

/** Where weights are taken from, by name; it throws when a name is missing or its shape is another. */
export interface WeightStore<T> {
  /** Whether there is a weight of this name: biases and an output matrix are optional. */
  has(name: string): boolean;
  /** The weight, which must have this shape. */
  take(name: string, shape: Shape): T;
  /** Weights of one shape, stacked along a new first axis. */
  takeStacked(names: readonly string[], shape: Shape): T;
}
