import { fail, UnsupportedError } from "@transmla/core";

import type { Fields } from "../model/config/fields.ts";

/** What an architecture of GGUF files is in the terms of Hugging Face. */
export interface GgufArchitecture {
  /** Its `model_type`. */
  readonly modelType: string;
  /** Its class. */
  readonly className: string;
  /** Whether llama.cpp stores the rows of queries and keys with the two of each rotary pair beside each other. */
  readonly pairsBeside: boolean;
  /** The tensors of a layer, by their names in Hugging Face checkpoints. */
  readonly tensors: Readonly<Record<string, string>>;
  /** The keys that are read, or that do not change the logits. */
  readonly keys: ReadonlySet<string>;
}

/** Tensors outside of layers. */
export const outside: Readonly<Record<string, string>> = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
};

const common: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_output: "self_attn.o_proj",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

const grouped = { ...common, attn_k: "self_attn.k_proj", attn_v: "self_attn.v_proj" };

const commonKeys = `attention.head_count attention.head_count_kv attention.key_length attention.layer_norm_rms_epsilon
  attention.value_length block_count context_length embedding_length expert_used_count feed_forward_length
  rope.dimension_count rope.freq_base rope.scale_linear rope.scaling.factor rope.scaling.finetuned
  rope.scaling.original_context_length rope.scaling.type vocab_size`;

const latentKeys = `attention.q_lora_rank attention.kv_lora_rank attention.key_length_mla attention.value_length_mla
  expert_feed_forward_length expert_shared_count leading_dense_block_count rope.scaling.yarn_log_multiplier`;

const keys = (text: string): ReadonlySet<string> => new Set(text.split(/\s+/));

/** The two tensors that llama.cpp splits `kv_b_proj` into: `[heads, rank, nope]` and `[heads, value, rank]`. */
export const splitKeyValue = { key: "attn_k_b", value: "attn_v_b" } as const;

/** Latent attention (DeepSeek-V2, V3) with dense layers. */
export const deepseek2: GgufArchitecture = {
  modelType: "deepseek_v3",
  className: "DeepseekV3ForCausalLM",
  pairsBeside: false, // they are in DeepSeek itself
  tensors: {
    ...common,
    attn_q_a: "self_attn.q_a_proj",
    attn_q_a_norm: "self_attn.q_a_layernorm",
    attn_q_b: "self_attn.q_b_proj",
    attn_kv_a_mqa: "self_attn.kv_a_proj_with_mqa",
    attn_kv_a_norm: "self_attn.kv_a_layernorm",
    attn_kv_b: "self_attn.kv_b_proj",
  },
  keys: keys(`${commonKeys} ${latentKeys}`),
};

const architectures: Readonly<Record<string, GgufArchitecture>> = {
  llama: {
    modelType: "llama",
    className: "LlamaForCausalLM",
    pairsBeside: true,
    tensors: grouped,
    keys: keys(commonKeys),
  },
  qwen2: {
    modelType: "qwen2",
    className: "Qwen2ForCausalLM",
    pairsBeside: false,
    tensors: grouped,
    keys: keys(commonKeys),
  },
  deepseek2,
};

/**
 * The architecture of a GGUF file.
 *
 * @param fields - Its metadata.
 * @param file - What errors call it.
 * @throws UnsupportedError for an architecture that this library does not run.
 */
export function ggufArchitecture(fields: Fields, file: string): GgufArchitecture {
  const name = fields.text("general.architecture");
  if (Object.hasOwn(architectures, name)) return architectures[name]!;
  const known = Object.keys(architectures).join(", ");
  const problem = `general.architecture = ${JSON.stringify(name)} is not supported; known: ${known}`;
  return fail(UnsupportedError, file, problem);
}
