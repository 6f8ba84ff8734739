import type { Fields } from "./fields.ts";
import type { HuggingFaceConfig } from "./model-config.ts";

/** Fields that change the logits of some model, with the values that change nothing. Families that honour one say so. */
const changing: Readonly<Record<string, readonly unknown[]>> = {
  attention_multiplier: [],
  attn_logit_softcapping: [],
  embedding_multiplier: [1],
  final_logit_softcapping: [],
  logits_scaling: [1],
  no_rope_layers: [],
  num_experts: [],
  num_local_experts: [],
  parallel_attn: [false],
  qk_norm: [false],
  quantization_config: [],
  query_pre_attn_scalar: [],
  residual_multiplier: [1],
  use_bidirectional_attention: [false],
  use_qk_norm: [false],
};

/** Fields that are read, or that do not change the logits. */
const considered = new Set(
  `architectures attention_bias attention_dropout aux_loss_alpha bos_token_id decoder_sparse_step dtype
  embd_pdrop embedding_initializer_range eos_token_id ep_size first_k_dense_replace head_dim hidden_act
  hidden_activation hidden_size initializer_range intermediate_size kv_lora_rank layer_types max_position_embeddings
  max_window_layers mlp_bias mlp_only_layers model_type moe_intermediate_size moe_layer_freq n_group n_routed_experts
  n_shared_experts no_rope_layer_interval norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers
  num_key_value_heads num_nextn_predict_layers original_max_position_embeddings output_router_logits pad_token_id
  partial_rotary_factor pretraining_tp q_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim resid_pdrop
  rms_norm_eps rope_interleave rope_local_base_freq rope_parameters rope_scaling rope_theta rope_type
  routed_scaling_factor router_aux_loss_coef router_jitter_noise scoring_func seq_aux sliding_window
  sliding_window_pattern _sliding_window_pattern tie_word_embeddings topk_group topk_method torch_dtype
  transformers_version transmla transmla_conversion use_cache use_sliding_window v_head_dim vocab_size _name_or_path
  auto_map unsloth_fixed unsloth_version chunk_size_feed_forward is_encoder_decoder return_dict output_attentions
  output_hidden_states id2label label2id tf_legacy_loss use_bfloat16 cache_implementation`.split(
    /\s+/,
  ),
);

/**
 * Throws for a field that changes the logits in a way that a family does not honour.
 *
 * @param fields - The configuration.
 * @param family - Its name, for the message.
 * @param honoured - The fields among them that the family reads.
 */
export function refuseChangingFields(
  fields: Fields,
  family: string,
  honoured: readonly string[],
): void {
  for (const [name, allowed] of Object.entries(changing)) {
    if (!fields.has(name) || honoured.includes(name) || allowed.includes(fields.raw(name)))
      continue;
    fields.refuse(name, `is not supported for ${family}`);
  }
}

/**
 * The fields of a configuration that this library does not know. They may change the logits.
 *
 * @param json - A parsed `config.json`.
 */
export function unknownFields(json: HuggingFaceConfig): string[] {
  return Object.keys(json).filter(
    (name) => !considered.has(name) && !Object.hasOwn(changing, name),
  );
}
