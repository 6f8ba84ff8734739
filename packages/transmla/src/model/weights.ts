import type { Shape } from "@transmla/core";

import type {
  FactoredAttention,
  GroupedAttention,
  LatentAttention,
  ModelConfig,
} from "./config.ts";

// The weights of a model under the names of Hugging Face checkpoints. T is what a weight is: a tensor on a backend
// when a model runs, a matrix in f64 when one is converted, a shape when a checkpoint is laid out.

/** A linear layer, stored output first: `y = x weightᵀ + bias`. */
export interface Linear<T> {
  readonly weight: T;
  readonly bias: T | undefined;
}

/** Grouped-query attention: `q_proj`, `k_proj`, `v_proj`, `o_proj`. */
export interface GroupedWeights<T> {
  readonly q: Linear<T>;
  readonly k: Linear<T>;
  readonly v: Linear<T>;
  readonly o: Linear<T>;
}

/** TransMLA v1: keys are `k_b(k_a(x))`, values `v_b(v_a(x))`. */
export interface FactoredWeights<T> {
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
export interface LatentWeights<T> {
  readonly query: LatentQueryWeights<T>;
  /** `kv_a_proj_with_mqa`: latent rows, then the rows of the shared rope key. */
  readonly down: Linear<T>;
  /** `kv_a_layernorm`. */
  readonly norm: T;
  /** `kv_b_proj`: for each head its nope keys, then its values. */
  readonly up: Linear<T>;
  readonly o: Linear<T>;
}

/** The attention weights of a layer. */
export type AttentionWeights<T> =
  | ({ readonly kind: "grouped" } & GroupedWeights<T>)
  | ({ readonly kind: "factored" } & FactoredWeights<T>)
  | ({ readonly kind: "latent" } & LatentWeights<T>);

/** One decoder layer. */
export interface LayerWeights<T> {
  readonly attentionNorm: T;
  readonly attention: AttentionWeights<T>;
  readonly feedForwardNorm: T;
  readonly gate: Linear<T>;
  readonly up: Linear<T>;
  readonly down: Linear<T>;
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
}

/** The prefix of a layer's names. */
export function layerPrefix(layer: number): string {
  return `model.layers.${layer}.`;
}

/**
 * Takes all weights of a model from a store, by the names and shapes that its configuration implies.
 *
 * @param store - Named weights.
 * @param config - The model.
 */
export function bindModel<T>(store: WeightStore<T>, config: ModelConfig): ModelWeights<T> {
  const { hiddenSize, vocabSize } = config;
  const embeddings = store.take("model.embed_tokens.weight", [vocabSize, hiddenSize]);
  const hasHead = store.has("lm_head.weight");
  const head = hasHead ? store.take("lm_head.weight", [vocabSize, hiddenSize]) : embeddings;
  return {
    embeddings,
    layers: Array.from({ length: config.layers }, (_, layer) => bindLayer(store, config, layer)),
    norm: store.take("model.norm.weight", [hiddenSize]),
    head: config.tiedEmbeddings ? embeddings : head,
  };
}

/**
 * Takes the weights of one layer from a store.
 *
 * @param store - Named weights.
 * @param config - The model.
 * @param layer - Which layer, from 0.
 */
function bindLayer<T>(store: WeightStore<T>, config: ModelConfig, layer: number): LayerWeights<T> {
  const prefix = layerPrefix(layer);
  const { hiddenSize: hidden, intermediateSize: inner } = config;
  const mlp = (name: string, rows: number, cols: number): Linear<T> =>
    linear(store, `${prefix}mlp.${name}`, rows, cols);
  return {
    attentionNorm: store.take(`${prefix}input_layernorm.weight`, [hidden]),
    attention: bindAttention(store, config, layer),
    feedForwardNorm: store.take(`${prefix}post_attention_layernorm.weight`, [hidden]),
    gate: mlp("gate_proj", inner, hidden),
    up: mlp("up_proj", inner, hidden),
    down: mlp("down_proj", hidden, inner),
  };
}

function linear<T>(store: WeightStore<T>, name: string, rows: number, cols: number): Linear<T> {
  const weight = store.take(`${name}.weight`, [rows, cols]);
  const bias = store.has(`${name}.bias`) ? store.take(`${name}.bias`, [rows]) : undefined;
  return { weight, bias };
}

/**
 * Takes the attention weights of one layer from a store.
 *
 * @param store - Named weights.
 * @param config - The model.
 * @param layer - Which layer, from 0.
 */
export function bindAttention<T>(
  store: WeightStore<T>,
  config: ModelConfig,
  layer: number,
): AttentionWeights<T> {
  const { attention, hiddenSize } = config;
  const prefix = `${layerPrefix(layer)}self_attn.`;
  const take = (name: string, rows: number, cols: number): Linear<T> =>
    linear(store, prefix + name, rows, cols);
  switch (attention.kind) {
    case "grouped":
      return { kind: "grouped", ...bindGrouped(take, attention, hiddenSize) };
    case "factored":
      return { kind: "factored", ...bindFactored(take, attention, hiddenSize) };
    case "latent":
      return {
        kind: "latent",
        ...bindLatent(take, attention, hiddenSize, (name, size) =>
          store.take(prefix + name, [size]),
        ),
      };
  }
}

type TakeLinear<T> = (name: string, rows: number, cols: number) => Linear<T>;

function bindGrouped<T>(
  take: TakeLinear<T>,
  c: GroupedAttention,
  hidden: number,
): GroupedWeights<T> {
  return {
    q: take("q_proj", c.heads * c.headDim, hidden),
    k: take("k_proj", c.kvHeads * c.headDim, hidden),
    v: take("v_proj", c.kvHeads * c.headDim, hidden),
    o: take("o_proj", hidden, c.heads * c.headDim),
  };
}

function bindFactored<T>(
  take: TakeLinear<T>,
  c: FactoredAttention,
  hidden: number,
): FactoredWeights<T> {
  return {
    q: take("q_proj", c.heads * c.headDim, hidden),
    keyDown: take("k_a_proj", c.keyRank, hidden),
    keyUp: take("k_b_proj", c.heads * c.headDim, c.keyRank),
    valueDown: take("v_a_proj", c.valueRank, hidden),
    valueUp: take("v_b_proj", c.heads * c.headDim, c.valueRank),
    o: take("o_proj", hidden, c.heads * c.headDim),
  };
}

function bindLatent<T>(
  take: TakeLinear<T>,
  c: LatentAttention,
  hidden: number,
  takeNorm: (name: string, size: number) => T,
): LatentWeights<T> {
  const queries = c.heads * (c.nopeDim + c.ropeDim);
  const query: LatentQueryWeights<T> =
    c.queryRank === undefined
      ? { kind: "direct", q: take("q_proj", queries, hidden) }
      : {
          kind: "low rank",
          down: take("q_a_proj", c.queryRank, hidden),
          norm: takeNorm("q_a_layernorm.weight", c.queryRank),
          up: take("q_b_proj", queries, c.queryRank),
        };
  return {
    query,
    down: take("kv_a_proj_with_mqa", c.latentRank + c.ropeDim, hidden),
    norm: takeNorm("kv_a_layernorm.weight", c.latentRank),
    up: take("kv_b_proj", c.heads * (c.nopeDim + c.valueDim), c.latentRank),
    o: take("o_proj", hidden, c.heads * c.valueDim),
  };
}
