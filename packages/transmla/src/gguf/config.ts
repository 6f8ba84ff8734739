import { fail, FormatError, UnsupportedError } from "@transmla/core";

import type { GgufHeader, GgufValue } from "../checkpoint/gguf/header.ts";
import { LATENT_NORM_EPS } from "../model/attention.ts";
import { Fields } from "../model/config/fields.ts";
import type { HuggingFaceConfig } from "../model/config/model-config.ts";
import { deepseek2, ggufArchitecture, type GgufArchitecture } from "./architectures.ts";

/** Keys whose meaning has a name in `config.json`, where it is refused or read. */
const renamed: Readonly<Record<string, string>> = {
  "attention.scale": "attention_multiplier",
  attn_logit_softcapping: "attn_logit_softcapping",
  embedding_scale: "embedding_multiplier",
  expert_count: "num_local_experts",
  final_logit_softcapping: "final_logit_softcapping",
  logit_scale: "logits_scaling",
  residual_scale: "residual_multiplier",
};

/**
 * The metadata of a GGUF file as fields that can be read with types and bounds. Numbers are the shortest decimals that
 * round to the stored f32, so that an epsilon of 1e-5 is 1e-5 again.
 *
 * @param header - The header of the file.
 * @param file - What errors call it.
 */
export function ggufFields(header: GgufHeader, file: string): Fields {
  const entries = [...header.metadata].map(([key, value]) => [key, plain(value)]);
  return new Fields(Object.fromEntries(entries), file);
}

function plain(value: GgufValue): unknown {
  if (typeof value === "number") return shortest(value);
  return json(value);
}

/** What JSON can hold; no field that is read is beyond 2^53. */
function json(value: GgufValue): unknown {
  if (typeof value === "bigint") return String(value);
  return typeof value === "object" ? value.map(json) : value;
}

function shortest(value: number): number {
  if (Number.isInteger(value) || Math.fround(value) !== value) return value;
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

/**
 * The `config.json` that the model of a GGUF file had.
 *
 * @param header - The header of the file.
 * @param ropeFactors - The values of `rope_freqs.weight`, where the file has it: what each frequency is divided by.
 * @param file - What errors call it.
 * @throws FormatError that names the key and its value.
 * @throws UnsupportedError for an architecture that this library does not run.
 */
export function ggufConfig(
  header: GgufHeader,
  ropeFactors: readonly number[] | undefined,
  file: string,
): HuggingFaceConfig {
  const fields = ggufFields(header, file);
  const architecture = ggufArchitecture(fields, file);
  if (fields.count("split.count", 0) > 1) {
    const problem = `split.count = ${fields.count("split.count")}: the file is a part of a model`;
    fail(UnsupportedError, file, `${problem}; join the parts with llama-gguf-split --merge`);
  }
  const embedding =
    header.tensors.get("token_embd.weight") ??
    fail(FormatError, file, "there is no tensor token_embd.weight: the file holds no model");
  const key: Key = (name) => `${fields.text("general.architecture")}.${name}`;
  const context = fields.size(key("context_length"));
  const token = (name: string): number | undefined => {
    const id = `tokenizer.ggml.${name}_token_id`;
    return fields.has(id) ? fields.count(id) : undefined;
  };
  return {
    architectures: [architecture.className],
    model_type: architecture.modelType,
    hidden_size: fields.size(key("embedding_length")),
    intermediate_size: fields.size(key("feed_forward_length")),
    num_hidden_layers: fields.size(key("block_count")),
    ...(architecture === deepseek2 ? latentFields(fields, key) : groupedFields(fields, key)),
    hidden_act: "silu",
    max_position_embeddings: context,
    rms_norm_eps: fields.positive(key("attention.layer_norm_rms_epsilon")),
    rope_theta: fields.positive(key("rope.freq_base"), 10_000),
    ...ropeScaling(fields, key, ropeFactors, context),
    vocab_size: embedding.shape[0],
    tie_word_embeddings: !header.tensors.has("output.weight"),
    attention_bias: header.tensors.has("blk.0.attn_q.bias"),
    mlp_bias: header.tensors.has("blk.0.ffn_up.bias"),
    bos_token_id: token("bos"),
    eos_token_id: token("eos"),
    pad_token_id: token("padding"),
    torch_dtype: "float32",
    ...otherFields(fields, key(""), architecture),
  };
}

type Key = (name: string) => string;

/** Grouped-query attention. */
function groupedFields(fields: Fields, key: Key): HuggingFaceConfig {
  const heads = fields.size(key("attention.head_count"));
  const implied = fields.size(key("embedding_length")) / heads;
  const ropeDim = fields.size(key("rope.dimension_count"), implied);
  const headDim = fields.size(key("attention.key_length"), ropeDim);
  for (const name of ["rope.dimension_count", "attention.value_length"]) {
    if (fields.has(key(name)) && fields.size(key(name)) !== headDim) {
      fields.refuse(key(name), `differs from the width of a head, ${headDim}: not supported`);
    }
  }
  return {
    num_attention_heads: heads,
    num_key_value_heads: fields.size(key("attention.head_count_kv"), heads),
    head_dim: headDim,
  };
}

/** Latent attention. llama.cpp caches it as one head, and states the widths before absorption with `_mla`. */
function latentFields(fields: Fields, key: Key): HuggingFaceConfig {
  const heads = fields.size(key("attention.head_count"));
  const layers = fields.size(key("block_count"));
  if (fields.count(key("leading_dense_block_count"), 0) < layers) {
    const problem = `is below block_count = ${layers}: experts are not read from GGUF files`;
    fields.refuse(key("leading_dense_block_count"), problem);
  }
  const eps = key("attention.layer_norm_rms_epsilon");
  // llama.cpp takes the epsilon of the other norms for the latent ones too.
  if (fields.positive(eps) !== LATENT_NORM_EPS) {
    fields.refuse(eps, `is not ${LATENT_NORM_EPS}, that of the latent norms of DeepSeek`);
  }
  const ropeDim = fields.size(key("rope.dimension_count"));
  const queryRank = fields.count(key("attention.q_lora_rank"), 0);
  return {
    num_attention_heads: heads,
    num_key_value_heads: heads,
    q_lora_rank: queryRank === 0 ? null : queryRank,
    kv_lora_rank: fields.size(key("attention.kv_lora_rank")),
    qk_rope_head_dim: ropeDim,
    qk_nope_head_dim: fields.size(key("attention.key_length_mla")) - ropeDim,
    v_head_dim: fields.size(key("attention.value_length_mla")),
    first_k_dense_replace: layers,
  };
}

/** The scaling of the rotary embedding. Explicit factors are written as LongRoPE with one list for every length. */
function ropeScaling(
  fields: Fields,
  key: Key,
  factors: readonly number[] | undefined,
  context: number,
): { rope_scaling?: unknown } {
  const isOld = fields.has(key("rope.scale_linear"));
  const type = fields.text(key("rope.scaling.type"), isOld ? "linear" : "none");
  const factorKey = key(isOld ? "rope.scale_linear" : "rope.scaling.factor");
  const original = key("rope.scaling.original_context_length");
  const logMultiplier = key("rope.scaling.yarn_log_multiplier");
  if (factors) {
    if (type !== "none" && type !== "linear") {
      fields.refuse(key("rope.scaling.type"), "is not supported beside rope_freqs.weight");
    }
    const linear = type === "linear" ? fields.positive(factorKey) : 1;
    const list = factors.map((factor) => factor * linear);
    const rest = {
      factor: 1,
      attention_factor: 1,
      original_max_position_embeddings: fields.size(original, context),
    };
    return {
      rope_scaling: { rope_type: "longrope", short_factor: list, long_factor: list, ...rest },
    };
  }
  if (type === "none") return {};
  return {
    rope_scaling: {
      rope_type: type,
      factor: fields.positive(factorKey),
      ...(fields.has(logMultiplier) ? yarnScale(fields.positive(logMultiplier)) : {}),
      ...(fields.has(original) ? { original_max_position_embeddings: fields.size(original) } : {}),
    },
  };
}

/** llama.cpp scales scores by the square of 1 + multiplier ln(factor), and leaves the rotation unscaled. */
function yarnScale(multiplier: number): { mscale: number; mscale_all_dim: number } {
  const scale = shortest(Math.fround(10 * multiplier));
  return { mscale: scale, mscale_all_dim: scale };
}

/**
 * What the file says beyond the keys above. Known ones are named as in `config.json`; the others keep their names, and
 * are reported as unknown.
 */
function otherFields(
  fields: Fields,
  prefix: string,
  architecture: GgufArchitecture,
): Record<string, unknown> {
  const others: Record<string, unknown> = {};
  for (const name of fields.names) {
    const short = name.slice(prefix.length);
    const value = fields.raw(name);
    // Zero stands for "none": no experts, no soft cap.
    if (!name.startsWith(prefix) || architecture.keys.has(short) || value === 0) continue;
    others[Object.hasOwn(renamed, short) ? renamed[short]! : name] = value;
  }
  return others;
}
