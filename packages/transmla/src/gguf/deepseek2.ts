import { fail, UnsupportedError } from "@transmla/core";

import { f32, text, u32 } from "../checkpoint/gguf/metadata.ts";
import type { GgufWritableType } from "../checkpoint/gguf/types.ts";
import type { PlannedGgufTensor } from "../checkpoint/gguf/write.ts";
import { show } from "../checkpoint/json.ts";
import { parseConfig } from "../model/config/families.ts";
import { Fields } from "../model/config/fields.ts";
import type {
  HuggingFaceConfig,
  LatentAttention,
  ModelConfig,
} from "../model/config/model-config.ts";
import { ropeSource, ropeType } from "../model/rope.ts";
import { deepseek2, outside, splitKeyValue } from "./architectures.ts";

// A dense DeepSeek model as a GGUF file of architecture deepseek2, by the rules that stock llama.cpp was seen to hold.

/** The epsilon of the latent norms in DeepSeek; llama.cpp takes that of the other norms, so all must have it. */
const EPS = 1e-6;

/** What one weight becomes in the file. */
export interface GgufPart {
  readonly planned: PlannedGgufTensor;
  /** Factor of the values. */
  readonly scale: number;
  /** Makes the values out of those of the whole weight; they are the same, in the same order, when absent. */
  readonly arrange?: (whole: Float64Array) => Float64Array;
}

/** How a model is stored. */
export interface GgufLayout {
  /** Metadata of the model; the tokenizer is not among it. */
  readonly metadata: ReadonlyMap<string, Uint8Array>;
  /**
   * What a weight becomes: one tensor, several, or none.
   *
   * @param name - Its Hugging Face name.
   * @param shape - Its shape.
   */
  parts(name: string, shape: readonly number[]): GgufPart[];
}

const fileTypes: Readonly<Record<GgufWritableType, number>> = { F32: 0, F16: 1, Q8_0: 7, BF16: 32 };

/**
 * Lays out a model.
 *
 * @param json - Its configuration, of a DeepSeek model with dense layers.
 * @param names - The names of its weights.
 * @param type - How matrices are stored. Norms stay `F32`, as does `attn_kv_a_mqa`, whose latent rows are very small
 *   where a norm was neutralised; a matrix whose rows are not whole blocks is stored as `F16`.
 * @throws UnsupportedError when llama.cpp cannot hold the model, with the reason and what to do.
 */
export function ggufLayout(
  json: HuggingFaceConfig,
  names: readonly string[],
  type: GgufWritableType,
): GgufLayout {
  const config = parseConfig(json);
  const attention = requireExpressible(json, config, names);
  // Under another factor of the residual stream the norms of layers have the epsilon of the latent norms, exactly.
  const residual = config.normEps === EPS ? 1 : Math.sqrt(EPS / config.normEps);
  return {
    metadata: new Map([
      ...modelMetadata(json, config, attention),
      ["general.file_type", u32(fileTypes[type])],
    ]),
    parts: (name, shape) => partsOf(name, shape, { config, attention, type, residual }),
  };
}

/** What keeps a model from this format, and the way out. */
function requireExpressible(
  json: HuggingFaceConfig,
  config: ModelConfig,
  names: readonly string[],
): LatentAttention {
  const refuse = (problem: string, instead: string): never =>
    fail(UnsupportedError, "convert", `llama.cpp ${problem}; use ${instead}`);
  const { attention, ropes } = config;
  if (attention.kind !== "latent" || !attention.normed) {
    return refuse(
      `holds latent attention in the form of DeepSeek only, not ${attention.kind} attention of ${config.family}`,
      "--method latent",
    );
  }
  const bias = names.find((name) => name.endsWith(".bias"));
  if (bias) refuse(`has no biases in this architecture (${bias})`, "--format safetensors");
  if (config.experts.some(Boolean)) {
    const tool = "convert_hf_to_gguf.py of llama.cpp on the safetensors folder";
    refuse("is written dense layers only by this library, and the model has experts", tool);
  }
  if (config.activation !== "silu")
    refuse(`has no ${config.activation} activation in this architecture`, "--format safetensors");
  if (attention.nopeDim < 1) {
    const problem = "aborts where heads have no part without RoPE (qk_nope_head_dim = 0)";
    refuse(problem, "a model with qk_nope_head_dim of 1 or more");
  }
  const type = ropeType(ropeSource(new Fields(json, "config.json")));
  // With linear scaling it multiplies scores by (1 + 0.1 ln factor)² in this architecture, as if for YaRN.
  if (!["default", "yarn"].includes(type) || ropes[0]!.tableScale !== 1) {
    const problem = `does not honour this rope_type "${type}" in this architecture`;
    refuse(problem, "--method latent on a model with default RoPE, or --format safetensors");
  }
  if (type === "yarn") requireYarn(json);
  return attention;
}

/** The ramp of YaRN is the default one in the file. */
function requireYarn(json: HuggingFaceConfig): void {
  const { scaling } = ropeSource(new Fields(json, "config.json"));
  for (const [name, usual] of Object.entries({ beta_fast: 32, beta_slow: 1, truncate: true })) {
    const stated = scaling?.raw(name) ?? usual;
    if (stated === usual) continue;
    const problem = `does not honour rope_parameters.${name} = ${show(stated)} in this architecture`;
    fail(UnsupportedError, "convert", `llama.cpp ${problem}; use --format safetensors`);
  }
}

function modelMetadata(
  json: HuggingFaceConfig,
  config: ModelConfig,
  c: LatentAttention,
): [key: string, value: Uint8Array][] {
  const { layers } = config;
  const { theta } = ropeSource(new Fields(json, "config.json"));
  const entries: [string, Uint8Array][] = [
    ["block_count", u32(layers)],
    ["context_length", u32(config.contextLength)],
    ["embedding_length", u32(config.hiddenSize)],
    ["feed_forward_length", u32(config.intermediateSize)],
    ["vocab_size", u32(config.vocabSize)],
    ["leading_dense_block_count", u32(layers)],
    // The loader reads these two of dense models too.
    ["expert_feed_forward_length", u32(config.intermediateSize)],
    ["expert_shared_count", u32(0)],
    ["attention.head_count", u32(c.heads)],
    // What is cached is one head: latent and rope key. Other values abort the process.
    ["attention.head_count_kv", u32(1)],
    ["attention.key_length", u32(c.latentRank + c.ropeDim)],
    ["attention.value_length", u32(c.latentRank)],
    ["attention.key_length_mla", u32(c.nopeDim + c.ropeDim)],
    ["attention.value_length_mla", u32(c.valueDim)],
    ["attention.kv_lora_rank", u32(c.latentRank)],
    ["attention.q_lora_rank", u32(c.queryRank ?? 0)],
    ["attention.layer_norm_rms_epsilon", f32(EPS)],
    ["rope.dimension_count", u32(c.ropeDim)],
    ["rope.freq_base", f32(theta)],
    ...ropeScaling(json, config),
  ];
  return [
    ["general.architecture", text("deepseek2")],
    ...entries.map(([key, value]): [string, Uint8Array] => [`deepseek2.${key}`, value]),
  ];
}

function ropeScaling(json: HuggingFaceConfig, config: ModelConfig): [string, Uint8Array][] {
  const { scaling, fields } = ropeSource(new Fields(json, "config.json"));
  if (!scaling || ropeType({ scaling }) === "default") return [];
  const original = "original_max_position_embeddings";
  const length = (scaling.has(original) ? scaling : fields).size(original, config.contextLength);
  return [
    ["rope.scaling.type", text("yarn")],
    ["rope.scaling.factor", f32(scaling.positive("factor"))],
    ["rope.scaling.original_context_length", u32(length)],
    ["rope.scaling.yarn_log_multiplier", f32(0.1 * scaling.number("mscale_all_dim", 0))],
  ];
}

interface LayoutOptions {
  readonly config: ModelConfig;
  readonly attention: LatentAttention;
  readonly type: GgufWritableType;
  readonly residual: number;
}

/** The stems of tensors by the names of weights, without `.weight`. */
const stems: ReadonlyMap<string, string> = new Map(
  [...Object.entries(outside), ...Object.entries(deepseek2.tensors)].map(([stem, name]) => [
    name,
    stem,
  ]),
);

function partsOf(
  weight: string,
  shape: readonly number[],
  { config, attention: c, type, residual }: LayoutOptions,
): GgufPart[] {
  const [, layer, name] = /^(?:model\.layers\.(\d+)\.)?(.+)\.weight$/.exec(weight)!;
  const block = layer === undefined ? "" : `blk.${layer}.`;
  const stem = stems.get(name!)!;
  const plan = (at: string, of: readonly number[]): PlannedGgufTensor => ({
    name: `${block}${at}.weight`,
    type: typeOf(at, of, type),
    shape: of,
  });
  const tied = config.tiedEmbeddings;
  if (stem === "output" && tied) return [];
  const inResidual = /^(token_embd|attn_output|ffn_down)$/.test(stem);
  const scale = inResidual ? residual : stem === "output_norm" && tied ? 1 / residual : 1;
  if (stem === "attn_kv_b") return splitParts(c, (at, of) => plan(at, of));
  const interleaved = config.ropes[0]!.interleaved;
  const rotated = /^attn_(q|q_b|kv_a_mqa)$/.test(stem);
  const head = stem === "attn_kv_a_mqa" ? c.latentRank + c.ropeDim : c.nopeDim + c.ropeDim;
  const arrange = (whole: Float64Array): Float64Array =>
    interleavePairs(whole, shape[1]!, head, c.ropeDim);
  return [{ planned: plan(stem, shape), scale, ...(rotated && !interleaved && { arrange }) }];
}

/** How a tensor is stored. */
function typeOf(stem: string, shape: readonly number[], type: GgufWritableType): GgufWritableType {
  if (shape.length === 1 || stem === "attn_kv_a_mqa") return "F32";
  return type === "Q8_0" && shape.at(-1)! % 32 !== 0 ? "F16" : type;
}

/** `kv_b_proj` apart: the keys of each head transposed, as absorption needs them, and its values. */
function splitParts(
  { heads, nopeDim, valueDim, latentRank }: LatentAttention,
  plan: (stem: string, shape: readonly number[]) => PlannedGgufTensor,
): GgufPart[] {
  const headSize = (nopeDim + valueDim) * latentRank;
  const keys = (whole: Float64Array): Float64Array => {
    const out = new Float64Array(heads * latentRank * nopeDim);
    let at = 0;
    for (let head = 0; head < heads; head++) {
      for (let r = 0; r < latentRank; r++) {
        for (let i = 0; i < nopeDim; i++) out[at++] = whole[head * headSize + i * latentRank + r]!;
      }
    }
    return out;
  };
  const values = (whole: Float64Array): Float64Array => {
    const out = new Float64Array(heads * valueDim * latentRank);
    for (let head = 0; head < heads; head++) {
      const from = head * headSize + nopeDim * latentRank;
      out.set(whole.subarray(from, (head + 1) * headSize), head * valueDim * latentRank);
    }
    return out;
  };
  return [
    { planned: plan(splitKeyValue.key, [heads, latentRank, nopeDim]), scale: 1, arrange: keys },
    {
      planned: plan(splitKeyValue.value, [heads, valueDim, latentRank]),
      scale: 1,
      arrange: values,
    },
  ];
}

/** Puts the last rows of each head from the order of two halves into that of interleaved pairs. */
function interleavePairs(
  whole: Float64Array,
  width: number,
  headRows: number,
  ropeRows: number,
): Float64Array {
  const out = whole.slice();
  for (let first = headRows - ropeRows; first * width < whole.length; first += headRows) {
    for (let row = 0; row < ropeRows; row++) {
      const source = first + (row >> 1) + (row & 1) * (ropeRows / 2);
      out.set(whole.subarray(source * width, (source + 1) * width), (first + row) * width);
    }
  }
  return out;
}
