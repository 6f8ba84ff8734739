import type {
  ExpertsConfig,
  FactoredAttention,
  GroupedAttention,
  LatentAttention,
  ModelConfig,
  ProjectedAttention,
} from "./config/model-config.ts";
import type {
  Linear,
  HeadNorms,
  GroupedWeights,
  FactoredWeights,
  LatentQueryWeights,
  LatentWeights,
  ProjectedWeights,
  AttentionWeights,
  DenseWeights,
  ExpertsWeights,
  FeedForwardWeights,
  LayerWeights,
  ModelWeights,
  WeightStore,
} from "./weights.ts";

// Which weights a model has, by the names and shapes that its configuration implies.

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

/** Takes the weights of one layer from a store. */
function bindLayer<T>(store: WeightStore<T>, config: ModelConfig, layer: number): LayerWeights<T> {
  const prefix = layerPrefix(layer);
  const norm = (name: string): T => store.take(`${prefix}${name}.weight`, [config.hiddenSize]);
  const optional = (name: string | undefined): T | undefined =>
    name === undefined ? undefined : norm(name);
  const { norms } = config;
  return {
    attentionNorm: norm(norms.attention),
    attention: bindAttention(store, config, layer),
    attentionOutNorm: optional(norms.attentionOut),
    feedForwardNorm: norm(norms.feedForward),
    feedForward: bindFeedForward(store, config, layer),
    feedForwardOutNorm: optional(norms.feedForwardOut),
  };
}

function bindFeedForward<T>(
  store: WeightStore<T>,
  config: ModelConfig,
  layer: number,
): FeedForwardWeights<T> {
  const experts = config.experts[layer];
  if (experts)
    return {
      kind: "experts",
      ...bindExperts(store, experts, config.hiddenSize, layerPrefix(layer)),
    };
  return {
    kind: "dense",
    ...bindDense(store, `${layerPrefix(layer)}mlp`, config.intermediateSize, config.hiddenSize),
  };
}

function bindDense<T>(
  store: WeightStore<T>,
  prefix: string,
  inner: number,
  hidden: number,
): DenseWeights<T> {
  return {
    gate: linear(store, `${prefix}.gate_proj`, inner, hidden),
    up: linear(store, `${prefix}.up_proj`, inner, hidden),
    down: linear(store, `${prefix}.down_proj`, hidden, inner),
  };
}

function bindExperts<T>(
  store: WeightStore<T>,
  { count, width, sharedWidth, names }: ExpertsConfig,
  hidden: number,
  layer: string,
): ExpertsWeights<T> {
  const prefix = `${layer}${names.prefix}`;
  const stack = (projection: string, rows: number, cols: number): T => {
    const each = Array.from(
      { length: count },
      (_, expert) => `${prefix}.experts.${expert}.${projection}.weight`,
    );
    return store.takeStacked(each, [rows, cols]);
  };
  const correction = `${prefix}.gate.e_score_correction_bias`;
  return {
    router: store.take(`${prefix}.gate.weight`, [count, hidden]),
    correction: store.has(correction) ? store.take(correction, [count]) : undefined,
    gate: stack(names.gate, width, hidden),
    up: stack(names.up, width, hidden),
    down: stack(names.down, hidden, width),
    shared:
      sharedWidth > 0
        ? bindDense(store, `${prefix}.shared_experts`, sharedWidth, hidden)
        : undefined,
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
  const headNorms = (headDim: number): HeadNorms<T> => {
    const optional = (name: string): T | undefined =>
      store.has(prefix + name) ? store.take(prefix + name, [headDim]) : undefined;
    return { queryNorm: optional("q_norm.weight"), keyNorm: optional("k_norm.weight") };
  };
  switch (attention.kind) {
    case "grouped":
      return {
        kind: "grouped",
        ...bindGrouped(take, attention, hiddenSize),
        ...headNorms(attention.headDim),
      };
    case "factored":
      return {
        kind: "factored",
        ...bindFactored(take, attention, hiddenSize),
        ...headNorms(attention.headDim),
      };
    case "projected":
      return {
        kind: "projected",
        ...bindGrouped(take, attention, hiddenSize),
        ...headNorms(attention.headDim),
        ...bindProjected(take, config, attention, layer),
      };
    case "latent":
      return {
        kind: "latent",
        ...bindLatent(take, attention, hiddenSize, (name, size) =>
          store.take(prefix + name, [size]),
        ),
        ...headNorms(attention.blockDim),
      };
  }
}

type TakeLinear<T> = (name: string, rows: number, cols: number) => Linear<T>;

function bindGrouped<T>(
  take: TakeLinear<T>,
  c: Omit<GroupedAttention, "kind">,
  hidden: number,
): Omit<GroupedWeights<T>, keyof HeadNorms<T>> {
  return {
    q: take("q_proj", c.heads * c.headDim, hidden),
    k: take("k_proj", c.kvHeads * c.headDim, hidden),
    v: take("v_proj", c.kvHeads * c.headDim, hidden),
    o: take("o_proj", hidden, c.heads * c.headDim),
  };
}

function bindProjected<T>(
  take: TakeLinear<T>,
  { ropes }: ModelConfig,
  c: ProjectedAttention,
  layer: number,
): Omit<ProjectedWeights<T>, keyof GroupedWeights<T>> {
  const { latentRank, pairs } = c.layers[layer]!;
  const positions = ropes[layer]?.frequencies.length ?? 0;
  const queries = c.heads * 2 * (pairs.length + positions);
  return {
    down: take("kv_a_proj", latentRank + 2 * pairs.length, 2 * c.kvHeads * c.headDim),
    up: take("kv_b_proj", c.heads * 2 * c.headDim, latentRank),
    queryUp: take("q_b_proj", queries, c.headDim).weight,
  };
}

function bindFactored<T>(
  take: TakeLinear<T>,
  c: FactoredAttention,
  hidden: number,
): Omit<FactoredWeights<T>, keyof HeadNorms<T>> {
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
): Omit<LatentWeights<T>, keyof HeadNorms<T>> {
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
    norm: c.normed ? takeNorm("kv_a_layernorm.weight", c.latentRank) : undefined,
    up: take("kv_b_proj", c.heads * (c.nopeDim + c.valueDim), c.latentRank),
    o: take("o_proj", hidden, c.heads * c.valueDim),
  };
}
