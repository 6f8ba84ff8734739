import { fail, FormatError, UnsupportedError } from "@transmla/core";

import type { GgufHeader, GgufValue } from "../checkpoint/gguf/header.ts";
import { Fields } from "../model/config/fields.ts";
import type { HuggingFaceConfig } from "../model/config/model-config.ts";

/** What an architecture of GGUF files is in the terms of Hugging Face. */
export interface GgufArchitecture {
  /** Its `model_type`. */
  readonly modelType: string;
  /** Its class. */
  readonly className: string;
  /** Whether llama.cpp stores the rows of queries and keys with the two of each rotary pair beside each other. */
  readonly pairsBeside: boolean;
}

const architectures: Readonly<Record<string, GgufArchitecture>> = {
  llama: { modelType: "llama", className: "LlamaForCausalLM", pairsBeside: true },
  qwen2: { modelType: "qwen2", className: "Qwen2ForCausalLM", pairsBeside: false },
};

/** The keys of the architecture that are read below, or that do not change the logits. */
const considered = new Set(
  `attention.head_count attention.head_count_kv attention.key_length attention.layer_norm_rms_epsilon
  attention.value_length block_count context_length embedding_length expert_used_count feed_forward_length
  rope.dimension_count rope.freq_base rope.scale_linear rope.scaling.factor rope.scaling.finetuned
  rope.scaling.original_context_length rope.scaling.type vocab_size`.split(/\s+/),
);

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
  const { modelType, className } = ggufArchitecture(fields, file);
  if (fields.count("split.count", 0) > 1) {
    const problem = `split.count = ${fields.count("split.count")}: the file is a part of a model`;
    fail(UnsupportedError, file, `${problem}; join the parts with llama-gguf-split --merge`);
  }
  const embedding =
    header.tensors.get("token_embd.weight") ??
    fail(FormatError, file, "there is no tensor token_embd.weight: the file holds no model");
  const key = (name: string): string => `${fields.text("general.architecture")}.${name}`;
  const hidden = fields.size(key("embedding_length"));
  const heads = fields.size(key("attention.head_count"));
  const context = fields.size(key("context_length"));
  const ropeDim = fields.size(key("rope.dimension_count"), hidden / heads);
  const headDim = fields.size(key("attention.key_length"), ropeDim);
  for (const name of ["rope.dimension_count", "attention.value_length"]) {
    if (fields.has(key(name)) && fields.size(key(name)) !== headDim) {
      fields.refuse(key(name), `differs from the width of a head, ${headDim}: not supported`);
    }
  }
  const token = (name: string): number | undefined => {
    const id = `tokenizer.ggml.${name}_token_id`;
    return fields.has(id) ? fields.count(id) : undefined;
  };
  return {
    architectures: [className],
    model_type: modelType,
    hidden_size: hidden,
    intermediate_size: fields.size(key("feed_forward_length")),
    num_hidden_layers: fields.size(key("block_count")),
    num_attention_heads: heads,
    num_key_value_heads: fields.size(key("attention.head_count_kv"), heads),
    head_dim: headDim,
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
    ...otherFields(fields, key("")),
  };
}

/** The scaling of the rotary embedding. Explicit factors are written as LongRoPE with one list for every length. */
function ropeScaling(
  fields: Fields,
  key: (name: string) => string,
  factors: readonly number[] | undefined,
  context: number,
): { rope_scaling?: unknown } {
  const isOld = fields.has(key("rope.scale_linear"));
  const type = fields.text(key("rope.scaling.type"), isOld ? "linear" : "none");
  const factorKey = key(isOld ? "rope.scale_linear" : "rope.scaling.factor");
  const original = key("rope.scaling.original_context_length");
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
      ...(fields.has(original) ? { original_max_position_embeddings: fields.size(original) } : {}),
    },
  };
}

/**
 * What the file says beyond the keys above. Known ones are named as in `config.json`; the others keep their names, and
 * are reported as unknown.
 */
function otherFields(fields: Fields, prefix: string): Record<string, unknown> {
  const others: Record<string, unknown> = {};
  for (const name of fields.names) {
    const short = name.slice(prefix.length);
    const value = fields.raw(name);
    // Zero stands for "none": no experts, no soft cap.
    if (!name.startsWith(prefix) || considered.has(short) || value === 0) continue;
    others[Object.hasOwn(renamed, short) ? renamed[short]! : name] = value;
  }
  return others;
}
