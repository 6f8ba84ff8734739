import type {
  GroupedAttention,
  HuggingFaceConfig,
  ModelConfig,
} from "../model/config/model-config.ts";

/**
 * A DeepSeek-V3 configuration with dense layers.
 *
 * @param source - The configuration of the source: token ids and the like are carried over.
 * @param config - The source as data.
 * @param c - Its attention.
 * @param attention - Ranks, widths, rotary embedding and epsilon of the result.
 */
export function deepseekConfig(
  source: HuggingFaceConfig,
  config: ModelConfig,
  c: GroupedAttention,
  attention: HuggingFaceConfig,
): HuggingFaceConfig {
  return {
    architectures: ["DeepseekV3ForCausalLM"],
    model_type: "deepseek_v3",
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: c.heads,
    num_key_value_heads: c.heads,
    v_head_dim: c.headDim,
    ...attention,
    rope_interleave: true,
    max_position_embeddings: config.contextLength,
    hidden_act: "silu",
    tie_word_embeddings: false,
    // All layers are dense; these fields of the expert layers must still be numbers.
    first_k_dense_replace: config.layers,
    moe_intermediate_size: config.intermediateSize,
    n_routed_experts: 2,
    n_shared_experts: 1,
    num_experts_per_tok: 1,
    n_group: 1,
    topk_group: 1,
    topk_method: "noaux_tc",
    scoring_func: "sigmoid",
    norm_topk_prob: true,
    routed_scaling_factor: 1,
    ...carriedOver(source),
  };
}

/** Fields that mean the same in every family. */
function carriedOver(source: HuggingFaceConfig): HuggingFaceConfig {
  const names = ["bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "use_cache"];
  return Object.fromEntries(
    names.filter((name) => name in source).map((name) => [name, source[name]]),
  );
}
