import { fail, FormatError } from "@transmla/core";

import type { AttentionConfig, HuggingFaceConfig, ModelConfig } from "./config.ts";
import { Fields } from "./fields.ts";
import { readRope } from "./rope.ts";

/** What a family changes that its weights do not show, read from `config.json`. */
interface Family {
  /** Pairs of the rotary embedding are neighbours; as LLaMA has them when absent. */
  readonly interleaved?: (fields: Fields) => boolean;
  /** How far each layer looks back. */
  readonly windows?: (fields: Fields, layers: number) => (number | undefined)[];
  /** Throws where the configuration asks for something that is not supported. */
  readonly check?: (fields: Fields) => void;
}

const families: Readonly<Record<string, Family>> = {
  llama: {},
  mistral: {
    windows: (fields, layers) => {
      const window = fields.has("sliding_window") ? fields.size("sliding_window") : undefined;
      return Array.from({ length: layers }, () => window);
    },
  },
  qwen2: { windows: layerTypeWindows },
  deepseek_v3: {
    interleaved: (fields) => fields.flag("rope_interleave", true),
    check: (fields) => {
      const layers = fields.size("num_hidden_layers");
      if (fields.count("first_k_dense_replace", 3) < layers) {
        fields.refuse(
          "first_k_dense_replace",
          `is below num_hidden_layers = ${layers}: layers with experts are not supported`,
        );
      }
    },
  },
};

/** Windows where `use_sliding_window` is on: by `layer_types`, or above `max_window_layers`. */
function layerTypeWindows(fields: Fields, layers: number): (number | undefined)[] {
  const types = fields.texts("layer_types");
  const used = fields.flag("use_sliding_window", false) && fields.has("sliding_window");
  const from = fields.count("max_window_layers", 28);
  return Array.from({ length: layers }, (_, layer) => {
    const windowed = types ? types[layer] === "sliding_attention" : layer >= from;
    return used && windowed ? fields.size("sliding_window") : undefined;
  });
}

/** Fields that change the numbers of some model and that no supported family has at any other value than these. */
const mustBe: Readonly<Record<string, readonly unknown[]>> = {
  hidden_act: ["silu", "swish"],
  attn_logit_softcapping: [],
  final_logit_softcapping: [],
  query_pre_attn_scalar: [],
  attention_multiplier: [],
  embedding_multiplier: [1],
  residual_multiplier: [1],
  logits_scaling: [1],
  num_experts: [],
  num_local_experts: [],
  quantization_config: [],
  qk_norm: [false],
  use_qk_norm: [false],
  parallel_attn: [false],
  no_rope_layers: [],
};

/** Fields that are read, or that do not change the logits. */
const considered = new Set(
  `architectures attention_bias attention_dropout aux_loss_alpha bos_token_id dtype eos_token_id ep_size
  first_k_dense_replace head_dim hidden_size initializer_range intermediate_size kv_lora_rank layer_types
  max_position_embeddings max_window_layers mlp_bias model_type moe_intermediate_size moe_layer_freq n_group
  n_routed_experts n_shared_experts norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers
  num_key_value_heads num_nextn_predict_layers output_router_logits pad_token_id partial_rotary_factor pretraining_tp
  q_lora_rank qk_head_dim qk_nope_head_dim qk_rope_head_dim rms_norm_eps rope_interleave rope_parameters rope_scaling
  rope_theta routed_scaling_factor scoring_func seq_aux sliding_window tie_word_embeddings topk_group topk_method
  torch_dtype transformers_version transmla use_cache use_sliding_window v_head_dim vocab_size _name_or_path auto_map
  unsloth_fixed unsloth_version chunk_size_feed_forward is_encoder_decoder return_dict output_attentions
  output_hidden_states id2label label2id mlp_only_layers tf_legacy_loss use_bfloat16 rope_type`.split(
    /\s+/,
  ),
);

/**
 * The fields of a configuration that this library does not know. They may change the logits.
 *
 * @param json - A parsed `config.json`.
 */
export function unknownFields(json: HuggingFaceConfig): string[] {
  return Object.keys(json).filter((name) => !considered.has(name) && !Object.hasOwn(mustBe, name));
}

/**
 * Reads a Hugging Face configuration.
 *
 * @param json - A parsed `config.json`, in the form of Transformers 5 or the older one.
 * @param file - Its name, for errors.
 * @throws FormatError that names the field, its value and what is expected; a field that changes the logits in a way
 *   that is not supported is an error too.
 *
 * @example
 * ```ts
 * import { parseConfig } from "transmla";
 * const config = parseConfig({
 *   model_type: "llama", hidden_size: 64, intermediate_size: 172, num_hidden_layers: 5, num_attention_heads: 8,
 *   num_key_value_heads: 4, vocab_size: 512, max_position_embeddings: 512, rms_norm_eps: 1e-5,
 * });
 * console.log(config.attention.kind); // => "grouped"
 * console.log(config.rope.frequencies.length); // => 4
 * ```
 */
export function parseConfig(json: unknown, file = "config.json"): ModelConfig {
  const fields = new Fields(json, file);
  const own = fields.has("transmla") ? fields.object("transmla") : undefined;
  if (own && own.size("version") !== 1) own.refuse("version", "is not supported; known: 1");
  const family = own ? own.text("source_model_type") : fields.text("model_type");
  const row = Object.hasOwn(families, family) ? families[family] : undefined;
  if (!row) {
    const known = Object.keys(families).join(", ");
    return fail(FormatError, file, `model_type "${family}" is not supported; known: ${known}`);
  }
  for (const [name, allowed] of Object.entries(mustBe)) {
    if (fields.has(name) && !allowed.includes(fields.raw(name)))
      fields.refuse(name, `is not supported for ${family}`);
  }
  row.check?.(fields);
  const layers = fields.size("num_hidden_layers");
  const contextLength = fields.size("max_position_embeddings");
  const attention = readAttention(fields, own);
  const rotated = attention.kind === "latent" ? attention.ropeDim : attention.headDim;
  return {
    family,
    layers,
    hiddenSize: fields.size("hidden_size"),
    intermediateSize: fields.size("intermediate_size"),
    vocabSize: fields.size("vocab_size"),
    contextLength,
    normEps: fields.positive("rms_norm_eps", 1e-6),
    tiedEmbeddings: fields.flag("tie_word_embeddings", false),
    rope: readRope(fields, rotated, row.interleaved?.(fields) ?? false, contextLength),
    attention,
    windows: row.windows?.(fields, layers) ?? Array.from({ length: layers }, () => undefined),
  };
}

function readAttention(fields: Fields, own: Fields | undefined): AttentionConfig {
  const heads = fields.size("num_attention_heads");
  if (fields.has("kv_lora_rank")) {
    const nopeDim = fields.count("qk_nope_head_dim");
    const ropeDim = fields.size("qk_rope_head_dim");
    if (ropeDim % 2 !== 0) fields.refuse("qk_rope_head_dim", "must be even");
    return {
      kind: "latent",
      heads,
      queryRank: fields.has("q_lora_rank") ? fields.size("q_lora_rank") : undefined,
      latentRank: fields.size("kv_lora_rank"),
      ropeDim,
      nopeDim,
      valueDim: fields.size("v_head_dim"),
      scale: (nopeDim + ropeDim) ** -0.5,
    };
  }
  const hidden = fields.size("hidden_size");
  if (!fields.has("head_dim") && hidden % heads !== 0) {
    fields.refuse(
      "num_attention_heads",
      `does not divide hidden_size = ${hidden}, and there is no head_dim`,
    );
  }
  const headDim = fields.size("head_dim", hidden / heads);
  if (headDim % 2 !== 0) fields.refuse("head_dim", "must be even");
  const scale = headDim ** -0.5;
  if (own) {
    const { keyRank, valueRank } = {
      keyRank: own.size("key_rank"),
      valueRank: own.size("value_rank"),
    };
    return { kind: "factored", heads, headDim, keyRank, valueRank, scale };
  }
  const kvHeads = fields.size("num_key_value_heads", heads);
  if (heads % kvHeads !== 0)
    fields.refuse("num_key_value_heads", `must divide num_attention_heads = ${heads}`);
  return { kind: "grouped", heads, kvHeads, headDim, scale };
}
