import { fail, UnsupportedError, type Shape } from "@transmla/core";

import type { GroupedAttention, HuggingFaceConfig, ModelConfig } from "../model/config.ts";
import { parseConfig } from "../model/families.ts";
import { NamedTensors } from "../model/named-tensors.ts";
import {
  bindAttention,
  bindModel,
  layerPrefix,
  type GroupedWeights,
  type WeightStore,
} from "../model/weights.ts";
import { factoredConfig, factoredRank, factoredTensors, type FactoredInit } from "./factored.ts";
import { scaled, type HostTensor } from "./host-tensor.ts";
import { EPS, mergedConfig, mergedTensors, residualScale, type OutputDType } from "./merged.ts";

/** Which conversion. */
export type ConversionMethod =
  | {
      /** Keys and values as products of two factors, RoPE after the second: exact, the form to fine-tune. */
      readonly method: "factored";
      /** The starting point; `svd` when absent. */
      readonly init?: FactoredInit | undefined;
    }
  | {
      /** All heads share one key of the width of all kv heads: exact, and a vanilla DeepSeek-V3 model. */
      readonly method: "merged";
    };

/** Named weights that are read one at a time, in f64. */
export interface WeightReader {
  /** All names. */
  readonly names: readonly string[];
  /** Whether a weight exists. */
  has(name: string): boolean;
  /** One weight, widened exactly. */
  read(name: string): Promise<HostTensor>;
}

/** A conversion that is laid out and not yet computed. */
export interface Conversion {
  /** The configuration of the result. */
  readonly config: HuggingFaceConfig;
  /** Name and shape of every tensor of the result. */
  readonly plan: readonly { readonly name: string; readonly shape: Shape }[];
  /** Computes the tensors in the order of the plan. Memory holds the attention of one layer, or one other tensor. */
  tensors(): AsyncGenerator<readonly [name: string, tensor: HostTensor]>;
}

/** One conversion method, seen from the loop over layers. */
interface Method {
  readonly config: HuggingFaceConfig;
  /** Whether the result has an optional tensor: a bias or an output matrix. */
  has(name: string): boolean;
  /** The attention tensors of a layer, by their names below `self_attn.`. */
  attention(w: GroupedWeights<HostTensor>): Readonly<Record<string, HostTensor>>;
  /** Where a tensor that is not attention comes from, and its factor. */
  carried(name: string): { readonly from: string; readonly scale: number };
}

/**
 * Lays out the conversion of a model.
 *
 * @param json - The `config.json` of the source.
 * @param weights - Its weights.
 * @param options - The method, and how the result will be stored.
 * @throws UnsupportedError when the source has no grouped attention, or the target cannot hold it.
 */
export function planConversion(
  json: HuggingFaceConfig,
  weights: WeightReader,
  options: ConversionMethod & { readonly dtype?: OutputDType | undefined },
): Conversion {
  const source = parseConfig(json);
  const { attention } = source;
  if (attention.kind !== "grouped") {
    return fail(
      UnsupportedError,
      "convert",
      `the model has ${attention.kind} attention already; only grouped attention can be converted`,
    );
  }
  const method =
    options.method === "factored"
      ? factored(json, source, attention, weights, options.init ?? "svd")
      : merged(json, source, attention, weights, options.dtype ?? "f32");
  const plan = planTensors(parseConfig(method.config), (name) => method.has(name));
  return {
    config: method.config,
    plan,
    tensors: () => convertTensors(plan, source, weights, method),
  };
}

/**
 * Names and shapes of all tensors of a model.
 *
 * @param config - The model.
 * @param has - Which optional tensors exist: biases and `lm_head.weight`.
 */
export function planTensors(
  config: ModelConfig,
  has: (name: string) => boolean,
): { name: string; shape: Shape }[] {
  const plan: { name: string; shape: Shape }[] = [];
  const recorder: WeightStore<void> = {
    has,
    take: (name, shape) => void plan.push({ name, shape }),
  };
  bindModel(recorder, config);
  return plan;
}

function factored(
  json: HuggingFaceConfig,
  source: ModelConfig,
  attention: GroupedAttention,
  weights: WeightReader,
  init: FactoredInit,
): Method {
  const rank = (projection: string): number => {
    const biased = weights.has(`${layerPrefix(0)}self_attn.${projection}.bias`);
    return factoredRank(attention, init, source.hiddenSize + Number(biased));
  };
  return {
    config: factoredConfig(json, { keyRank: rank("k_proj"), valueRank: rank("v_proj") }, init),
    has: (name) => weights.has(name.replace(/\.([kv])_a_proj\.bias$/, ".$1_proj.bias")),
    attention: (w) => factoredTensors(w, attention, init),
    carried: (name) => ({ from: name, scale: 1 }),
  };
}

function merged(
  json: HuggingFaceConfig,
  source: ModelConfig,
  attention: GroupedAttention,
  weights: WeightReader,
  dtype: OutputDType,
): Method {
  const { names } = weights;
  const window = source.windows.find(
    (positions) => positions !== undefined && positions < source.contextLength,
  );
  if (window !== undefined) {
    fail(
      UnsupportedError,
      "convert",
      `merged writes DeepSeek-V3, which has no sliding window (sliding_window = ${window}, max_position_embeddings = ${source.contextLength}); use --method factored`,
    );
  }
  const mlpBias = names.find((name) => /\.mlp\..*\.bias$/.test(name));
  if (mlpBias !== undefined) {
    fail(
      UnsupportedError,
      "convert",
      `merged writes DeepSeek-V3, which has no feed-forward bias (${mlpBias}); use --method factored`,
    );
  }
  const biased = names.some((name) => /\.self_attn\.[qkvo]_proj\.bias$/.test(name));
  // One epsilon in all norms is read alike by every version of Transformers. In bf16 the factor would round embeddings,
  // o_proj and down_proj once more; the versions that exist keep 1e-6 in the latent norms whatever the others have.
  const normEps = dtype === "f32" ? EPS : source.normEps;
  const residual = dtype === "f32" ? residualScale(source.normEps) : 1;
  const inResidual = /^model\.embed_tokens\.weight$|\.down_proj\.weight$/;
  const tied = source.tiedEmbeddings || !weights.has("lm_head.weight");
  return {
    config: mergedConfig(json, source, attention, biased, normEps),
    has: (name) =>
      name === "lm_head.weight" ||
      (biased && /\.(q_a_proj|kv_a_proj_with_mqa|o_proj)\.bias$/.test(name)),
    attention: (w) => mergedTensors(w, attention, residual, dtype),
    carried: (name) => {
      if (name === "lm_head.weight" && tied) return { from: "model.embed_tokens.weight", scale: 1 };
      return { from: name, scale: inResidual.test(name) ? residual : 1 };
    },
  };
}

async function* convertTensors(
  plan: Conversion["plan"],
  source: ModelConfig,
  weights: WeightReader,
  method: Method,
): AsyncGenerator<readonly [string, HostTensor]> {
  let current:
    | { readonly prefix: string; readonly tensors: Readonly<Record<string, HostTensor>> }
    | undefined;
  for (const { name } of plan) {
    const layer = /^model\.layers\.(\d+)\.self_attn\./.exec(name);
    if (!layer) {
      const { from, scale } = method.carried(name);
      yield [name, scaled(await weights.read(from), scale)];
      continue;
    }
    const prefix = layer[0];
    if (current?.prefix !== prefix) {
      current = undefined; // let the previous layer go before the next is read
      current = {
        prefix,
        tensors: method.attention(await readAttention(weights, source, Number(layer[1]))),
      };
    }
    yield [name, current.tensors[name.slice(prefix.length)]!];
  }
}

/** Reads the attention of one layer; the other weights of the layer are not touched. */
async function readAttention(
  weights: WeightReader,
  source: ModelConfig,
  layer: number,
): Promise<GroupedWeights<HostTensor>> {
  const prefix = `${layerPrefix(layer)}self_attn.`;
  const read = new Map<string, HostTensor>();
  for (const projection of ["q", "k", "v", "o"]) {
    for (const part of ["weight", "bias"]) {
      const name = `${prefix}${projection}_proj.${part}`;
      if (weights.has(name)) read.set(name, await weights.read(name));
    }
  }
  const attention = bindAttention(new NamedTensors(read), source, layer);
  if (attention.kind !== "grouped") throw new TypeError("convert: the source is not grouped");
  return attention;
}
