import { fail, UnsupportedError } from "@transmla/core";
import type { Matrix } from "@transmla/core/linalg";

import { parseConfig } from "../../model/config/families.ts";
import { Fields } from "../../model/config/fields.ts";
import type {
  GroupedAttention,
  HuggingFaceConfig,
  ModelConfig,
} from "../../model/config/model-config.ts";
import { ropeSource, ropeType } from "../../model/rope.ts";
import { deepseekConfig } from "../deepseek-config.ts";
import { copyRows, fromMatrix, range, scaled, zeros, type HostTensor } from "../host-tensor.ts";
import { EPS, interleavedRows, LATENT_SCALE, normCompensation } from "../merged.ts";
import type { LatentLayer } from "./latent-layer.ts";
import type { CompletePublished } from "./published/recipe.ts";
import { slotChoice, type CompleteRecipe } from "./recipe.ts";
import { bandPairs } from "./steps/slots.ts";

/** The largest relative difference of a frequency between the source and the result. */
const SAME_FREQUENCY = 1e-12;

/**
 * The DeepSeek-V3 tensors of a latent layer, by their names below `self_attn.`. The queries make up for the softmax
 * scale of wider heads; the latent norm is a constant that the up-projection divides out.
 *
 * @param layer - The layer.
 * @param c - The attention of the source.
 * @param residual - The factor of the residual stream.
 */
export function latentTensors(
  layer: LatentLayer,
  c: GroupedAttention,
  residual: number,
): Record<string, HostTensor> {
  const { heads, headDim: d } = c;
  const ropeDim = layer.keyRope.rows;
  const hidden = layer.output.rows;
  const rank = layer.latent.rows;
  const norm = normCompensation("f32"); // its power of two is stored exactly in every dtype
  const queryScale = c.scale * Math.sqrt(d + ropeDim) * (layer.queryDown ? norm.up : 1);

  const query = zeros(heads * (d + ropeDim), layer.queryNope.cols);
  const up = zeros(heads * 2 * d, rank);
  for (let h = 0; h < heads; h++) {
    const at = h * (d + ropeDim);
    const nope = range(h * d, (h + 1) * d);
    copyRows(query, at, fromMatrix(layer.queryNope), nope, queryScale);
    const rope = interleavedRows(ropeDim, h * ropeDim);
    copyRows(query, at + d, fromMatrix(layer.queryRope), rope, queryScale);
    const own = (rows: Matrix): number[] => {
      const group = Math.floor((h * rows.rows) / (heads * d));
      return range(group * d, (group + 1) * d);
    };
    copyRows(up, 2 * h * d, fromMatrix(layer.keyUp), own(layer.keyUp), norm.up);
    copyRows(up, (2 * h + 1) * d, fromMatrix(layer.valueUp), own(layer.valueUp), norm.up);
  }
  const down = zeros(rank + ropeDim, layer.keyRope.cols);
  copyRows(down, 0, fromMatrix(layer.latent), range(0, rank), LATENT_SCALE);
  copyRows(down, rank, fromMatrix(layer.keyRope), interleavedRows(ropeDim, 0));
  return {
    ...(layer.queryDown
      ? {
          ...linearTensors("q_a_proj", scaled(fromMatrix(layer.queryDown), LATENT_SCALE), hidden),
          "q_a_layernorm.weight": constant(layer.queryDown.rows, norm.gamma),
          "q_b_proj.weight": query,
        }
      : { "q_proj.weight": query }),
    ...linearTensors("kv_a_proj_with_mqa", down, hidden),
    "kv_a_layernorm.weight": constant(rank, norm.gamma),
    "kv_b_proj.weight": up,
    "o_proj.weight": scaled(fromMatrix(layer.output), residual),
    ...(layer.outputBias && {
      "o_proj.bias": scaled({ shape: [hidden], data: layer.outputBias }, residual),
    }),
  };
}

/** A projection as it is stored: a column behind those of the inputs is its bias. */
function linearTensors(
  name: string,
  { shape, data }: HostTensor,
  inputs: number,
): Record<string, HostTensor> {
  const [rows, cols] = shape as [number, number];
  if (cols === inputs) return { [`${name}.weight`]: { shape, data } };
  const [weight, bias] = [zeros(rows, inputs), zeros(rows)];
  for (let i = 0; i < rows; i++) {
    weight.data.set(data.subarray(i * cols, i * cols + inputs), i * inputs);
    bias.data[i] = data[i * cols + inputs]!;
  }
  return { [`${name}.weight`]: weight, [`${name}.bias`]: bias };
}

const constant = (size: number, value: number): HostTensor => ({
  shape: [size],
  data: new Float64Array(size).fill(value),
});

/**
 * The DeepSeek-V3 configuration of a latent model. The base `theta^(d_r / d)` makes the frequencies of the narrower key
 * exactly the fastest of the source; the base of the source, as published, every `d / d_r`-th of them. Frequencies that
 * are repeated are listed.
 *
 * @param json - The configuration of the source.
 * @param config - The same as data.
 * @param c - Its attention.
 * @param recipe - The sizes.
 * @param biased - Whether a projection of attention has a bias.
 * @param calibration - What is recorded of it.
 * @throws UnsupportedError when the rotary embedding cannot be stated for a narrower key.
 */
export function latentConfig(
  json: HuggingFaceConfig,
  config: ModelConfig,
  c: GroupedAttention,
  recipe: CompleteRecipe | CompletePublished,
  biased: boolean,
  calibration: HuggingFaceConfig,
): HuggingFaceConfig {
  const { ropeDim, latentRank } = recipe;
  const { scaling, theta } = ropeSource(new Fields(json, "config.json"));
  const type = ropeType({ scaling });
  const stated = Object.fromEntries(scaling?.names.map((name) => [name, scaling.raw(name)]) ?? []);
  const isPublished = recipe.recipe === "transmla";
  const isEven = isPublished || recipe.band === "even";
  const repeated = !isPublished && recipe.components > 1;
  const pairs = isPublished
    ? bandPairs({ ropeDim, choice: "even band" }, c.headDim)
    : bandPairs(slotChoice(recipe), c.headDim);
  const base = repeated ? 1 : isEven ? theta : theta ** (ropeDim / c.headDim);
  const frequencies = pairs.map((pair) => config.ropes[0]!.frequencies[pair]!);
  const rope = repeated
    ? { rope_theta: base, ...listedFrequencies(frequencies, config.contextLength) }
    : { ...stated, rope_type: type, rope_theta: base };
  const result = deepseekConfig(json, config, c, {
    // DeepSeek-V3 has a bias of queries on the way to a latent of them only.
    q_lora_rank:
      recipe.queryRank !== "full" ? recipe.queryRank : biased ? c.heads * c.headDim : null,
    kv_lora_rank: latentRank,
    qk_nope_head_dim: c.headDim,
    qk_rope_head_dim: ropeDim,
    head_dim: ropeDim,
    attention_bias: biased,
    rope_theta: base,
    rope_scaling: rope.rope_type === "default" ? null : rope,
    rope_parameters: rope,
    rms_norm_eps: EPS,
    transmla_conversion: {
      method: "latent",
      source_model_type: json["model_type"],
      recipe: recipe.recipe,
      ...(isPublished ? publishedFields(recipe) : defaultFields(recipe)),
      ...calibration,
    },
  });
  requireSameFrequencies(result, config, type, frequencies);
  return result;
}

/** Rope parameters that state any frequencies, for Transformers: `longrope` factors over a base of 1, twice the same. */
function listedFrequencies(
  frequencies: readonly number[],
  contextLength: number,
): { readonly rope_type: string } & HuggingFaceConfig {
  const factors = frequencies.map((frequency) => 1 / frequency);
  return {
    rope_type: "longrope",
    factor: 1,
    attention_factor: 1,
    short_factor: factors,
    long_factor: factors,
    original_max_position_embeddings: contextLength,
  };
}

const publishedFields = ({ fold, balance }: CompletePublished): HuggingFaceConfig => ({
  fold,
  balance,
});

const defaultFields = (recipe: CompleteRecipe): HuggingFaceConfig => ({
  components: recipe.components,
  band: recipe.band,
  field: recipe.field,
  metric: recipe.metric,
  phase: recipe.phase,
  logit_refit: recipe.logitRefit,
  received_share: recipe.receivedShare,
  whiten: recipe.whiten,
  output_ridge: recipe.outputRidge,
  refine: recipe.refine,
});

/** Refuses a scaling that depends on more than the frequency itself, such as the ramp of YaRN over indices. */
function requireSameFrequencies(
  json: HuggingFaceConfig,
  source: ModelConfig,
  type: string,
  expected: readonly number[],
): void {
  const [result, original] = [parseConfig(json).ropes[0]!, source.ropes[0]!];
  const same = result.frequencies.every(
    (frequency, i) => Math.abs(frequency - expected[i]!) <= SAME_FREQUENCY * expected[i]!,
  );
  if (same && result.tableScale === 1 && original.tableScale === 1) return;
  fail(
    UnsupportedError,
    "convert",
    `latent cannot state rope_type "${type}" for a narrower key; use --method merged`,
  );
}
