import { fail, UnsupportedError, type Backend, type Shape } from "@transmla/core";

import { bindAttention, bindModel, layerPrefix } from "../model/bind-weights.ts";
import { parseConfig } from "../model/config/families.ts";
import { Fields } from "../model/config/fields.ts";
import type { HuggingFaceConfig, ModelConfig } from "../model/config/model-config.ts";
import { fusedParts, type FusedPart } from "../model/fused-projections.ts";
import { NamedTensors } from "../model/named-tensors.ts";
import { ropeSource, ropeType } from "../model/rope.ts";
import type { GroupedWeights, WeightStore } from "../model/weights.ts";
import { deepseekLimit } from "./deepseek-limits.ts";
import { factoredRank, factoredTensors, type FactoredInit } from "./factored.ts";
import type { HostTensor } from "./host-tensor.ts";
import { latentMethod, type Calibration } from "./latent/method.ts";
import { projectedMethod } from "./latent/projected/method.ts";
import type { ProjectedRecipe } from "./latent/projected/recipe.ts";
import type { PublishedRecipe } from "./latent/published/recipe.ts";
import type { LatentRecipe } from "./latent/recipe.ts";
import {
  EPS,
  mergedConfig,
  mergedLayout,
  mergedTensors,
  plainRope,
  repeatedRope,
  residualScale,
  type OutputDType,
} from "./merged.ts";
import {
  carriedUnder,
  selfAttention,
  type GroupedSource,
  type Method,
  type WeightReader,
} from "./method.ts";
import { ownConfig, ownMergedTensors } from "./own-format.ts";
import { onePiece, scaledPieces } from "./pieces.ts";
import { requireTarget, type Target } from "./targets.ts";

export type { WeightReader } from "./method.ts";

/** Which conversion. */
export type ConversionMethod = (
  | {
      /** The model as it is: only the format of the file changes. */
      readonly method: "none";
    }
  | {
      /** Keys and values as products of two factors, RoPE after the second: exact, the form to fine-tune. */
      readonly method: "factored";
      /** The starting point; `svd` when absent. */
      readonly init?: FactoredInit | undefined;
    }
  | {
      /** All heads share one key of the width of all kv heads: exact. */
      readonly method: "merged";
    }
  | ((LatentRecipe | PublishedRecipe | ProjectedRecipe) &
      Calibration & {
        /** Keys and values as one latent smaller than the cache they need now, calibrated: vanilla DeepSeek-V3. */
        readonly method: "latent";
      })
) & {
  /** Who runs the result; what it cannot hold is refused. When absent, `own` for `factored`, `transformers` for others. */
  readonly target?: Target | undefined;
};

/** A conversion that is laid out and not yet computed. */
export interface Conversion {
  /** The configuration of the result; complete once all tensors have been taken. */
  readonly config: HuggingFaceConfig;
  /** Name and shape of every tensor of the result. */
  readonly plan: readonly { readonly name: string; readonly shape: Shape }[];
  /** Computes the tensors in the order of the plan. Memory holds the attention of one layer, or a piece of another tensor. */
  tensors(): AsyncGenerator<ConvertedTensor>;
}

/** A tensor of a conversion. */
export interface ConvertedTensor {
  /** Its name. */
  readonly name: string;
  /** Its shape. */
  readonly shape: Shape;
  /** Its values in row-major order, to be taken once and before the next tensor is asked for. */
  readonly pieces: AsyncIterable<Float64Array>;
}

/** How a conversion is computed and stored. */
export interface PlanOptions {
  /** How the result will be stored; `f32` when absent. */
  readonly dtype?: OutputDType | undefined;
  /** Where a method that calibrates runs the source; every method computes in f64 with its `blas`. */
  readonly backend?: Backend | undefined;
}

/**
 * Lays out the conversion of a model.
 *
 * @param json - The `config.json` of the source.
 * @param stored - Its weights.
 * @param options - The method, and how the result will be stored.
 * @throws UnsupportedError when the source has no grouped attention, or the target cannot hold it.
 */
export function planConversion(
  json: HuggingFaceConfig,
  stored: WeightReader,
  options: ConversionMethod & PlanOptions,
): Conversion {
  if (options.method === "none") return unchanged(json, parseConfig(json), stored);
  const from = groupedSource(json, stored);
  const method = createMethod(from, options);
  if (options.target) requireTarget(options.target, method.config);
  const plan = planTensors(parseConfig(method.config), (name) => method.has(name));
  return {
    get config() {
      return method.config;
    },
    plan,
    tensors: () => convertTensors(plan, from.weights, method),
  };
}

/**
 * A model that can be converted.
 *
 * @param json - Its `config.json`.
 * @param stored - Its weights.
 * @throws UnsupportedError when it has no grouped attention.
 */
export function groupedSource(json: HuggingFaceConfig, stored: WeightReader): GroupedSource {
  const source = parseConfig(json);
  const weights = withoutFused(stored, source);
  const { attention } = source;
  if (attention.kind !== "grouped") {
    return fail(
      UnsupportedError,
      "convert",
      `the model has ${attention.kind} attention already; only grouped attention can be converted`,
    );
  }
  return { json, config: source, attention, weights };
}

/** A model that stays what it is. */
function unchanged(
  json: HuggingFaceConfig,
  config: ModelConfig,
  weights: WeightReader,
): Conversion {
  const plan = planTensors(config, (name) => weights.has(name));
  return {
    config: json,
    plan,
    tensors: async function* () {
      for (const entry of plan) yield { ...entry, pieces: weights.pieces(entry.name) };
    },
  };
}

type Converting = Exclude<ConversionMethod, { readonly method: "none" }>;

function createMethod(source: GroupedSource, options: Converting & PlanOptions): Method {
  switch (options.method) {
    case "factored":
      return factored(source, options.init ?? "svd", options.backend);
    case "merged":
      return options.target === "own"
        ? ownMerged(source)
        : merged(source, options.dtype ?? "f32", options.target);
    case "latent":
      return options.target === "own"
        ? projectedMethod(source, ownRecipe(options), options, options.backend)
        : latentMethod(source, options, options, options.backend);
  }
}

function ownRecipe(recipe: LatentRecipe | PublishedRecipe | ProjectedRecipe): ProjectedRecipe {
  if ("queryRank" in recipe && recipe.queryRank !== undefined) {
    fail(
      UnsupportedError,
      "convert",
      "own keeps the queries of the source; leave --query-rank out",
    );
  }
  if (recipe.recipe !== "transmla") return recipe;
  const problem = "--recipe transmla writes DeepSeek-V3; use --target transformers";
  return fail(UnsupportedError, "convert", problem);
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
  const take = (name: string, shape: Shape): void => void plan.push({ name, shape });
  const recorder: WeightStore<void> = {
    has,
    take,
    takeStacked: (names, shape) => names.forEach((name) => take(name, shape)),
  };
  bindModel(recorder, config);
  return plan;
}

function factored(source: GroupedSource, init: FactoredInit, backend: Backend | undefined): Method {
  const { json, config, attention, weights } = source;
  const rank = (projection: string): number => {
    const biased = weights.has(`${layerPrefix(0)}self_attn.${projection}.bias`);
    return factoredRank(attention, init, config.hiddenSize + Number(biased));
  };
  return {
    config: ownConfig(json, {
      method: "factored",
      init,
      key_rank: rank("k_proj"),
      value_rank: rank("v_proj"),
    }),
    has: (name) => weights.has(name.replace(/\.([kv])_a_proj\.bias$/, ".$1_proj.bias")),
    layer: async (layer) => {
      const weights = await readAttention(source, layer);
      return selfAttention(factoredTensors(weights, attention, init, { blas: backend?.blas }));
    },
    carried: (name) => ({ from: name, scale: 1 }),
  };
}

function merged(source: GroupedSource, dtype: OutputDType, target: Target | undefined): Method {
  const { json, config, attention, weights } = source;
  const { names } = weights;
  const missing = deepseekLimit(config, names);
  if (missing !== undefined) {
    const problem = `merged writes DeepSeek-V3, which has no ${missing}`;
    fail(
      UnsupportedError,
      "convert",
      `${problem}; for the runtime of this library use --target own`,
    );
  }
  const biased = names.some((name) => /\.self_attn\.[qkvo]_proj\.bias$/.test(name));
  // One epsilon in all norms is read alike by every version of Transformers. In bf16 the factor would round embeddings,
  // o_proj and down_proj once more; the versions that exist keep 1e-6 in the latent norms whatever the others have.
  const normEps = dtype === "f32" ? EPS : config.normEps;
  const residual = dtype === "f32" ? residualScale(config.normEps) : 1;
  const layout = mergedLayout(config, attention);
  const theta = target === "llama.cpp" && attention.kvHeads === 1 ? defaultTheta(json) : undefined;
  const rotation =
    theta === undefined ? repeatedRope(config, attention) : plainRope(theta, config, attention);
  return {
    config: mergedConfig(json, config, attention, biased, normEps, rotation),
    has: (name) =>
      name === "lm_head.weight" ||
      (biased && /\.(q_a_proj|kv_a_proj_with_mqa|o_proj)\.bias$/.test(name)),
    layer: async (layer) => {
      const rope = config.ropes[layer] ?? "none";
      const { rotatedScale } = rotation;
      const source = await readAttention({ config, weights }, layer);
      return selfAttention(
        mergedTensors(source, attention, residual, dtype, { layout, rope, rotatedScale }),
      );
    },
    carried: carriedUnder(source, residual),
  };
}

/** The base of a rotary embedding that nothing scales. */
function defaultTheta(json: HuggingFaceConfig): number | undefined {
  const source = ropeSource(new Fields(json, "config.json"));
  return ropeType(source) === "default" ? source.theta : undefined;
}

function ownMerged(source: GroupedSource): Method {
  const { json, attention, weights } = source;
  const has = (name: string): boolean => {
    const [layer, fused] = name.split("kv_a_proj_with_mqa");
    if (fused === undefined) return weights.has(name);
    return weights.has(`${layer}k_proj${fused}`) || weights.has(`${layer}v_proj${fused}`);
  };
  return {
    config: ownConfig(json, { method: "merged" }),
    has,
    layer: async (layer) =>
      selfAttention(ownMergedTensors(await readAttention(source, layer), attention)),
    carried: (name) => ({ from: name, scale: 1 }),
  };
}

async function* convertTensors(
  plan: Conversion["plan"],
  weights: WeightReader,
  method: Method,
): AsyncGenerator<ConvertedTensor> {
  let current:
    | { readonly prefix: string; readonly tensors: Readonly<Record<string, HostTensor>> }
    | undefined;
  try {
    for (const { name, shape } of plan) {
      const [prefix, index] = /^model\.layers\.(\d+)\./.exec(name) ?? [];
      if (current?.prefix !== prefix) {
        current = undefined; // let the previous layer go before the next is read
        if (prefix) current = { prefix, tensors: await method.layer(Number(index)) };
      }
      const computed = current?.tensors[name.slice(current.prefix.length)];
      const { from, scale } = method.carried(name);
      const pieces = computed ? onePiece(computed.data) : scaledPieces(weights.pieces(from), scale);
      yield { name, shape, pieces };
    }
  } finally {
    method.dispose?.();
  }
}

/** Reads the attention of one layer; the other weights of the layer are not touched. */
async function readAttention(
  { config, weights }: Pick<GroupedSource, "config" | "weights">,
  layer: number,
): Promise<GroupedWeights<HostTensor>> {
  const prefix = `${layerPrefix(layer)}self_attn.`;
  const read = new Map<string, HostTensor>();
  for (const part of ["q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"]) {
    for (const name of [`${prefix}${part}.weight`, `${prefix}${part}.bias`]) {
      if (weights.has(name)) read.set(name, await weights.read(name));
    }
  }
  const attention = bindAttention(new NamedTensors(read), config, layer);
  if (attention.kind !== "grouped") throw new TypeError("convert: the source is not grouped");
  return attention;
}

/** The weights with fused projections taken apart. */
function withoutFused(weights: WeightReader, source: ModelConfig): WeightReader {
  const parts = new Map<string, { readonly fused: string; readonly part: FusedPart }>();
  const names = weights.names.flatMap((name) => {
    const held = fusedParts(name, source);
    for (const part of held ?? []) parts.set(part.name, { fused: name, part });
    return held ? held.map((part) => part.name) : [name];
  });
  if (parts.size === 0) return weights;
  const read = async (name: string): Promise<HostTensor> => {
    const held = parts.get(name);
    if (!held) return weights.read(name);
    const { shape, data } = await weights.read(held.fused);
    const { start, end } = held.part;
    const width = shape[1] ?? 1;
    return {
      shape: [end - start, ...shape.slice(1)],
      data: data.slice(start * width, end * width),
    };
  };
  return {
    names,
    has: (name) => parts.has(name) || weights.has(name),
    read,
    pieces: async function* (name) {
      if (parts.has(name)) yield (await read(name)).data;
      else yield* weights.pieces(name);
    },
  };
}
