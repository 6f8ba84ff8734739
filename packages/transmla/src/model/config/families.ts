import { fail, FormatError, type GateFunction } from "@transmla/core";

import { readRope, ropeSource, scoreScale } from "../rope.ts";
import {
  checkExperts,
  deepseekV2Experts,
  deepseekV3Experts,
  mixtralExperts,
  qwen3Experts,
} from "./family-experts.ts";
import { Fields, MAX_LAYERS } from "./fields.ts";
import { refuseChangingFields } from "./known-fields.ts";
import type {
  AttentionConfig,
  ExpertsConfig,
  GroupedAttention,
  ModelConfig,
  NormNames,
  ProjectedAttention,
  RopeConfig,
} from "./model-config.ts";

/** What a family changes that its weights do not show. What is absent is as in LLaMA. */
interface Family {
  /** Fields that change the logits and that the family reads. */
  readonly honours?: readonly string[];
  /** The default of `tie_word_embeddings`. */
  readonly tied?: boolean;
  /** The width of a head when `head_dim` is absent. */
  readonly headDim?: number;
  /** Pairs of the rotary embedding are neighbours. */
  readonly interleaved?: (fields: Fields) => boolean;
  /** Which layers look back how far; by `sliding_window` on none. */
  readonly windows?: (fields: Fields, layer: number) => boolean;
  /** Which layers have no positions, or others. */
  readonly rope?: (fields: Fields, usual: RopeConfig) => (layer: number) => RopeConfig | undefined;
  /** The experts of a layer. */
  readonly experts?: (fields: Fields, layer: number) => ExpertsConfig | undefined;
  /** Norm weights are stored less one, embeddings are scaled, and branches are normalised on the way out. */
  readonly gemma?: boolean;
  /** The softmax scale grows with YaRN's mscale. */
  readonly scalesScores?: boolean;
}

/** Heads have a few hundred components; there is a frequency for every two. */
const MAX_HEAD = 2 ** 16;

const always = (): boolean => true;

/** Whether `layer_types` makes a layer look back only so far; by a rule where the field is absent. */
const byLayerType =
  (otherwise: (fields: Fields, layer: number) => boolean) =>
  (fields: Fields, layer: number): boolean => {
    const types = fields.textsOfLayers("layer_types");
    return types ? types[layer] === "sliding_attention" : otherwise(fields, layer);
  };

/** Qwen: windows only where `use_sliding_window` is on. */
const qwenWindows = (fields: Fields, layer: number): boolean =>
  fields.flag("use_sliding_window", false) &&
  byLayerType((all, index) => index >= all.count("max_window_layers", 28))(fields, layer);

/** Gemma 3: every sixth layer, or what a pattern says, looks at everything. */
const gemma3Windows = byLayerType((fields, layer) => {
  const name = fields.has("_sliding_window_pattern")
    ? "_sliding_window_pattern"
    : "sliding_window_pattern";
  return (layer + 1) % fields.size(name, 6) !== 0;
});

/** Gemma 3 rotates layers with a window by another, unscaled base. */
function gemma3Rope(fields: Fields, usual: RopeConfig): (layer: number) => RopeConfig {
  const nested = fields.has("rope_parameters") ? fields.object("rope_parameters") : undefined;
  const local = nested?.has("sliding_attention") ? nested.object("sliding_attention") : undefined;
  const theta = local
    ? local.positive("rope_theta", 10_000)
    : fields.positive("rope_local_base_freq", 10_000);
  const windowed = readRope({ fields, scaling: local, theta }, fields.size("head_dim", 256), false);
  return (layer) => (gemma3Windows(fields, layer) ? windowed : usual);
}

/** SmolLM3: every fourth layer has no positions. */
function smollm3Rope(fields: Fields, usual: RopeConfig): (layer: number) => RopeConfig | undefined {
  const flags = fields.countsOfLayers("no_rope_layers");
  const interval = fields.size("no_rope_layer_interval", 4);
  const isRotated = (layer: number): boolean =>
    flags ? flags[layer] !== 0 : (layer + 1) % interval !== 0;
  return (layer) => (isRotated(layer) ? usual : undefined);
}

const gemmaFields = ["attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"];
const interleaved = (fields: Fields): boolean => fields.flag("rope_interleave", true);

const families: Readonly<Record<string, Family>> = {
  llama: {},
  mistral: { windows: always },
  mixtral: { windows: always, experts: mixtralExperts, honours: ["num_local_experts"] },
  qwen2: { windows: qwenWindows },
  qwen3: { windows: qwenWindows, headDim: 128 },
  qwen3_moe: {
    windows: qwenWindows,
    experts: qwen3Experts,
    honours: ["num_experts", "num_local_experts"],
  },
  smollm3: { windows: qwenWindows, rope: smollm3Rope, tied: true, honours: ["no_rope_layers"] },
  phi3: { windows: always },
  gemma2: {
    gemma: true,
    tied: true,
    headDim: 256,
    windows: byLayerType((_, layer) => layer % 2 === 0),
    honours: gemmaFields,
  },
  gemma3_text: {
    gemma: true,
    tied: true,
    headDim: 256,
    windows: gemma3Windows,
    rope: gemma3Rope,
    honours: gemmaFields,
  },
  deepseek_v2: { interleaved: always, experts: deepseekV2Experts, scalesScores: true },
  deepseek_v3: { interleaved, experts: deepseekV3Experts, scalesScores: true },
  youtu: { interleaved, tied: true, scalesScores: true },
};

/** The families that are supported, by their `model_type`. */
export const familyNames: readonly string[] = Object.keys(families);

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
 * console.log(config.ropes[0]?.frequencies.length); // => 4
 * ```
 */
export function parseConfig(json: unknown, file = "config.json"): ModelConfig {
  const fields = new Fields(json, file);
  const own = fields.has("transmla") ? fields.object("transmla") : undefined;
  if (own && own.size("version") !== 1) own.refuse("version", "is not supported; known: 1");
  const family = own ? own.text("source_model_type") : fields.text("model_type");
  const row = Object.hasOwn(families, family) ? families[family] : undefined;
  if (!row) {
    const known = familyNames.join(", ");
    return fail(FormatError, file, `model_type "${family}" is not supported; known: ${known}`);
  }
  refuseChangingFields(fields, family, row.honours ?? []);
  const attention = readAttention(fields, own, row);
  const layers = fields.size("num_hidden_layers", undefined, MAX_LAYERS);
  const perLayer = <T>(read: (layer: number) => T): T[] =>
    Array.from({ length: layers }, (_, layer) => read(layer));
  const usual = readUsualRope(fields, attention, row);
  const rope = row.rope?.(fields, usual) ?? (() => usual);
  return {
    family,
    layers,
    hiddenSize: fields.size("hidden_size"),
    intermediateSize: fields.size("intermediate_size"),
    vocabSize: fields.size("vocab_size"),
    contextLength: fields.size("max_position_embeddings"),
    normEps: fields.positive("rms_norm_eps", 1e-6),
    normOffset: row.gemma ? 1 : 0,
    norms: row.gemma ? gemmaNorms : llamaNorms,
    activation: readActivation(fields, row),
    embeddingScale: row.gemma ? Math.sqrt(fields.size("hidden_size")) : 1,
    logitCap: readCap(fields, "final_logit_softcapping"),
    scoreCap: readCap(fields, "attn_logit_softcapping"),
    tiedEmbeddings: fields.flag("tie_word_embeddings", row.tied ?? false),
    attention,
    ropes: perLayer(rope),
    windows: perLayer((layer) => readWindow(fields, layer, row)),
    experts: perLayer((layer) => readExperts(fields, layer, row)),
  };
}

const llamaNorms: NormNames = {
  attention: "input_layernorm",
  feedForward: "post_attention_layernorm",
};

const gemmaNorms: NormNames = {
  attention: "input_layernorm",
  attentionOut: "post_attention_layernorm",
  feedForward: "pre_feedforward_layernorm",
  feedForwardOut: "post_feedforward_layernorm",
};

function readWindow(fields: Fields, layer: number, row: Family): number | undefined {
  const windowed = fields.has("sliding_window") && row.windows?.(fields, layer);
  return windowed ? fields.size("sliding_window") : undefined;
}

function readExperts(fields: Fields, layer: number, row: Family): ExpertsConfig | undefined {
  const experts = row.experts?.(fields, layer);
  if (experts) checkExperts(fields, experts);
  return experts;
}

function readCap(fields: Fields, name: string): number | undefined {
  return fields.has(name) ? fields.positive(name) : undefined;
}

function readActivation(fields: Fields, row: Family): GateFunction {
  const name = fields.has("hidden_activation") ? "hidden_activation" : "hidden_act";
  const functions: Readonly<Record<string, GateFunction>> = {
    silu: "silu",
    swish: "silu",
    gelu_pytorch_tanh: "gelu",
  };
  const stated = fields.text(name, row.gemma ? "gelu_pytorch_tanh" : "silu");
  const known = Object.hasOwn(functions, stated) ? functions[stated] : undefined;
  return (
    known ?? fields.refuse(name, `is not supported; known: ${Object.keys(functions).join(", ")}`)
  );
}

function readUsualRope(fields: Fields, attention: AttentionConfig, row: Family): RopeConfig {
  const headDim = attention.kind === "latent" ? attention.blockDim : attention.headDim;
  const source = ropeSource(fields);
  const nested = source.scaling?.has("full_attention")
    ? source.scaling.object("full_attention")
    : undefined;
  const stated = nested
    ? { fields, scaling: nested, theta: nested.positive("rope_theta", 10_000) }
    : source;
  return readRope(stated, headDim, row.interleaved?.(fields) ?? false);
}

function readAttention(fields: Fields, own: Fields | undefined, row: Family): AttentionConfig {
  const heads = fields.size("num_attention_heads");
  if (fields.has("kv_lora_rank")) return readLatentAttention(fields, heads, row);
  const hidden = fields.size("hidden_size");
  if (!fields.has("head_dim") && row.headDim === undefined && hidden % heads !== 0) {
    fields.refuse(
      "num_attention_heads",
      `does not divide hidden_size = ${hidden}, and there is no head_dim`,
    );
  }
  const headDim = fields.size("head_dim", row.headDim ?? hidden / heads, MAX_HEAD);
  if (headDim % 2 !== 0) fields.refuse("head_dim", "must be even");
  const scale = fields.positive("query_pre_attn_scalar", headDim) ** -0.5;
  const kvHeads = fields.size("num_key_value_heads", heads);
  if (heads % kvHeads !== 0)
    fields.refuse("num_key_value_heads", `must divide num_attention_heads = ${heads}`);
  const grouped = { kind: "grouped", heads, kvHeads, headDim, scale } as const;
  return own ? readOwnAttention(fields, own, grouped) : grouped;
}

/** The attention of a model in the format of this library, from that of its source. */
function readOwnAttention(fields: Fields, own: Fields, source: GroupedAttention): AttentionConfig {
  const { heads, kvHeads, headDim, scale } = source;
  const method = own.text("method");
  if (method === "factored") {
    const [keyRank, valueRank] = [own.size("key_rank"), own.size("value_rank")];
    return { kind: "factored", heads, headDim, keyRank, valueRank, scale };
  }
  if (method === "latent") return readProjectedAttention(fields, own, source);
  if (method !== "merged") {
    own.refuse("method", "is not supported; known: factored, merged, latent");
  }
  return {
    kind: "latent",
    heads,
    queryRank: undefined,
    latentRank: kvHeads * headDim,
    ropeDim: kvHeads * headDim,
    blockDim: headDim,
    nopeDim: 0,
    valueDim: headDim,
    normed: false,
    scale,
  };
}

function readProjectedAttention(
  fields: Fields,
  own: Fields,
  source: GroupedAttention,
): ProjectedAttention {
  const count = fields.size("num_hidden_layers", undefined, MAX_LAYERS);
  const layers = own.objects("layers", count).map((layer) => {
    const pairs = layer.counts("rope_pairs", MAX_HEAD);
    if (pairs.some((pair) => pair >= source.headDim / 2)) {
      layer.refuse("rope_pairs", `must be below half the head width of ${source.headDim}`);
    }
    return { latentRank: layer.size("latent_rank"), pairs };
  });
  return { ...source, kind: "projected", exactFirst: own.flag("exact_first"), layers };
}

function readLatentAttention(fields: Fields, heads: number, row: Family): AttentionConfig {
  const nopeDim = fields.count("qk_nope_head_dim");
  const ropeDim = fields.size("qk_rope_head_dim", undefined, MAX_HEAD);
  if (ropeDim % 2 !== 0) fields.refuse("qk_rope_head_dim", "must be even");
  return {
    kind: "latent",
    heads,
    queryRank: fields.has("q_lora_rank") ? fields.size("q_lora_rank") : undefined,
    latentRank: fields.size("kv_lora_rank"),
    ropeDim,
    blockDim: ropeDim,
    nopeDim,
    valueDim: fields.size("v_head_dim"),
    normed: true,
    scale: (nopeDim + ropeDim) ** -0.5 * (row.scalesScores ? scoreScale(ropeSource(fields)) : 1),
  };
}
