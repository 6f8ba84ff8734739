import { ArgumentError, fail, UnsupportedError, type Backend } from "@transmla/core";

import { parseConfig } from "../../model/config/families.ts";
import type { HuggingFaceConfig } from "../../model/config/model-config.ts";
import { deepseekLimit, isHeadNorm, narrowRopeLimit } from "../deepseek-limits.ts";
import { residualScale } from "../merged.ts";
import { carriedUnder, selfAttention, type GroupedSource, type Method } from "../method.ts";
import { requireWindows } from "./calibration-stream.ts";
import { convertLayer } from "./convert-layer.ts";
import { latentConfig, latentTensors } from "./export.ts";
import type { LatentLayer } from "./latent-layer.ts";
import { LatentRun, type VisitedLayer } from "./latent-run.ts";
import { keptLayer, type LayerStore, type StoredLayer } from "./layer-store.ts";
import type { ProjectedRecipe } from "./projected/recipe.ts";
import { PublishedRun } from "./published/published-run.ts";
import { completePublished, type PublishedRecipe } from "./published/recipe.ts";
import { completeRecipe, type CompleteRecipe, type LatentRecipe } from "./recipe.ts";
import { layerRun } from "./refine/refined-run.ts";
import { hasAttentionBias, SourceLayers } from "./source-layers.ts";
import type { JointLatent } from "./steps/joint-latent.ts";

/** What is known of a layer that has been converted. */
export interface LayerReport {
  /** Which layer, from 0. */
  readonly layer: number;
  /** `Σ |y' - y|² / Σ |y|²` of the attention output over the calibration tokens. */
  readonly error: number;
  /** The same with the original output matrix, where another one has been fitted. */
  readonly errorBefore: number | undefined;
  /** The same with linear queries and keys and nothing else, where they stand for normalised ones. */
  readonly linearError?: number | undefined;
  /** The energies of the components of keys and values, descending, of which the latent holds the first. */
  readonly eigenvalues: Float64Array;
}

/** What a calibrated conversion is given besides its recipe. */
export interface Calibration {
  /** Windows of token ids: 16 k tokens or more, as long as the context to come. */
  readonly calibration: readonly (readonly number[])[];
  /** Where the windows come from, for the record in the configuration. */
  readonly about?: HuggingFaceConfig | undefined;
  /** Called after each layer. */
  readonly onLayer?: ((report: LayerReport) => void) | undefined;
  /** Where layers are kept as they are converted; those that it has are not converted again. */
  readonly layers?: LayerStore | undefined;
}

/**
 * What a configuration records of a calibration.
 *
 * @param windows - Its windows.
 * @param about - Where they come from.
 */
export function calibrationRecord(
  windows: Calibration["calibration"],
  about: HuggingFaceConfig | undefined,
): HuggingFaceConfig {
  return {
    calibration_windows: windows.length,
    calibration_tokens: windows.reduce((total, ids) => total + ids.length, 0),
    ...(about && { calibration: about }),
  };
}

/** What a layer's report says of a layer that was kept. */
export function layerReport(layer: number, { facts }: StoredLayer): LayerReport {
  const { error, errorBefore, linearError, eigenvalues } = facts;
  return {
    layer,
    error: error as number,
    errorBefore: errorBefore as number | undefined,
    linearError: linearError as number | undefined,
    eigenvalues: Float64Array.from(eigenvalues as readonly number[]),
  };
}

/**
 * The calibrated conversion to a smaller cache, as a method of the loop over layers.
 *
 * @param source - The model.
 * @param recipe - Sizes and ingredients.
 * @param calibration - Windows of token ids, and who is told of layers.
 * @param backend - Where the source runs over them.
 * @throws UnsupportedError when the model cannot be written as DeepSeek-V3.
 * @throws ArgumentError when a size or a window does not fit the model.
 */
export function latentMethod(
  source: GroupedSource,
  recipe: LatentRecipe | PublishedRecipe | ProjectedRecipe,
  { calibration, about, onLayer, layers: store }: Calibration,
  backend: Backend | undefined,
): Method {
  const { json, config, attention, weights } = source;
  const biased = requireExpressible(source, recipe);
  const complete =
    recipe.recipe === "transmla"
      ? completePublished(recipe, attention)
      : completeRecipe(recipe, attention);
  requireWindows(calibration, config);
  const residual = residualScale(config.normEps);
  const layers = new SourceLayers(config, attention, weights);
  const result = latentConfig(json, config, attention, complete, biased, {
    ...(weights.names.some(isHeadNorm) && { head_norms: "linear" }),
    ...calibrationRecord(calibration, about),
  });
  const start = (): LayerConversion => {
    const options = { backend: requireBackend(backend), windows: calibration };
    if (complete.recipe === "transmla") {
      const published = new PublishedRun(config, layers, { ...options, recipe: complete });
      return {
        convert: async (index) => storedLayer(source, await published.convert(index)),
        [Symbol.dispose]: () => published[Symbol.dispose](),
      };
    }
    const into = { recipe: complete, result: () => parseConfig(result), residual, store };
    return layerRun(config, layers, { ...options, ...into, linear: true }, async (layer) =>
      storedLayer(source, await convertStock(layer, complete)),
    );
  };
  let run: LayerConversion | undefined;
  return {
    config: result,
    has: (name) =>
      name === "lm_head.weight" ||
      (biased && /\.(q_a_proj|kv_a_proj_with_mqa|o_proj)\.bias$/.test(name)),
    layer: async (index) => {
      const stored = await keptLayer(store, index, async () => {
        run ??= start();
        return run.convert(index);
      });
      onLayer?.(layerReport(index, stored));
      return stored.tensors;
    },
    carried: carriedUnder(source, residual),
    dispose: () => run?.[Symbol.dispose](),
  };
}

/**
 * Throws unless there is a backend to calibrate on.
 *
 * @param backend - The backend.
 */
export function requireBackend(backend: Backend | undefined): Backend {
  return backend ?? fail(ArgumentError, "convert", "latent needs a backend to calibrate on");
}

/** A layer and what is reported of it. */
interface Converted {
  readonly layer: LatentLayer;
  readonly latent: JointLatent;
  readonly errorBefore?: number;
  readonly error: number;
  readonly linearError?: number | undefined;
}

/** Converts layers in their order. */
interface LayerConversion extends Disposable {
  convert(index: number): Promise<StoredLayer>;
}

function storedLayer(
  { config, attention }: GroupedSource,
  { layer, errorBefore, error, linearError, latent }: Converted,
): StoredLayer {
  return {
    tensors: selfAttention(latentTensors(layer, attention, residualScale(config.normEps))),
    facts: {
      error,
      ...(errorBefore !== undefined && { errorBefore }),
      ...(linearError !== undefined && { linearError }),
      eigenvalues: [...latent.eigenvalues],
    },
  };
}

/**
 * Converts all layers by several recipes with one calibration.
 *
 * @param source - The model.
 * @param candidates - Recipes, and where their layers go.
 * @param windows - Of token ids.
 * @param backend - Where the source runs over them.
 * @param signal - Stops between layers.
 */
export async function convertCandidates(
  source: GroupedSource,
  candidates: readonly { readonly recipe: LatentRecipe; readonly layers: LayerStore }[],
  windows: Calibration["calibration"],
  backend: Backend,
  signal?: AbortSignal,
): Promise<void> {
  const { config, attention, weights } = source;
  for (const { recipe } of candidates) requireExpressible(source, recipe);
  requireWindows(windows, config);
  const complete = candidates.map(({ recipe }) => completeRecipe(recipe, attention));
  const layers = new SourceLayers(config, attention, weights);
  const options = { backend, windows, linear: true };
  using run = new LatentRun(config, layers, options, async (layer) => {
    for (const [i, recipe] of complete.entries()) {
      const converted = await convertStock(layer, recipe);
      await candidates[i]!.layers.write(layer.index, storedLayer(source, converted));
    }
  });
  for (let index = 0; index < config.layers; index++) {
    signal?.throwIfAborted();
    await run.convert(index);
  }
}

async function convertStock(layer: VisitedLayer, recipe: CompleteRecipe): Promise<Converted> {
  const { linearError } = layer.calibrated;
  return { ...(await convertLayer(layer, recipe)), linearError };
}

/** Throws unless DeepSeek-V3 holds the model, but for norms of heads; says whether it takes biases. */
function requireExpressible(
  { config, weights }: GroupedSource,
  recipe: LatentRecipe | PublishedRecipe | ProjectedRecipe,
): boolean {
  const { names } = weights;
  const biased = hasAttentionBias(names);
  const isDefault = recipe.recipe !== "transmla";
  const isPlain = !("queryRank" in recipe) || (recipe.queryRank ?? "full") === "full";
  const others = isDefault && !biased ? names.filter((name) => !isHeadNorm(name)) : names;
  const missing =
    biased && !isPlain
      ? "attention bias with --query-rank"
      : (deepseekLimit(config, others) ?? narrowRopeLimit(config));
  if (missing === undefined) return biased;
  const problem = `latent writes DeepSeek-V3, which has no ${missing}; use --method factored, or --target own`;
  return fail(UnsupportedError, "convert", problem);
}
