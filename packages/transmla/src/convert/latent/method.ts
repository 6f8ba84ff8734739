import { ArgumentError, fail, UnsupportedError, type Backend } from "@transmla/core";

import type { ModelConfig } from "../../model/config/model-config.ts";
import { deepseekLimit, narrowRopeLimit } from "../deepseek-limits.ts";
import { residualScale } from "../merged.ts";
import { carriedUnder, type GroupedSource, type Method } from "../method.ts";
import { requireWindows } from "./calibration-stream.ts";
import { convertLayer } from "./convert-layer.ts";
import { latentConfig, latentTensors } from "./export.ts";
import type { LatentLayer } from "./latent-layer.ts";
import { LatentRun } from "./latent-run.ts";
import type { ProjectedRecipe } from "./projected/recipe.ts";
import { PublishedRun } from "./published/published-run.ts";
import {
  completePublished,
  type CompletePublished,
  type PublishedRecipe,
} from "./published/recipe.ts";
import { completeRecipe, type CompleteRecipe, type LatentRecipe } from "./recipe.ts";
import { SourceLayers } from "./source-layers.ts";
import type { JointLatent } from "./steps/joint-latent.ts";

/** What is known of a layer that has been converted. */
export interface LayerReport {
  /** Which layer, from 0. */
  readonly layer: number;
  /** `Σ |y' - y|² / Σ |y|²` of the attention output over the calibration tokens. */
  readonly error: number;
  /** The same with the original output matrix, where another one has been fitted. */
  readonly errorBefore: number | undefined;
  /** The energies of the components of keys and values, descending, of which the latent holds the first. */
  readonly eigenvalues: Float64Array;
}

/** What a calibrated conversion is given besides its recipe. */
export interface Calibration {
  /** Windows of token ids. */
  readonly calibration: readonly (readonly number[])[];
  /** Called after each layer. */
  readonly onLayer?: ((report: LayerReport) => void) | undefined;
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
  { calibration, onLayer }: Calibration,
  backend: Backend | undefined,
): Method {
  const { json, config, attention, weights } = source;
  requireExpressible(source);
  const complete =
    recipe.recipe === "transmla"
      ? completePublished(recipe, attention)
      : completeRecipe(recipe, attention);
  requireWindows(calibration, config);
  const residual = residualScale(config.normEps);
  const layers = new SourceLayers(config, attention, weights);
  let run: LayerConversion | undefined;
  return {
    config: latentConfig(json, config, attention, complete, calibration),
    has: (name) => name === "lm_head.weight",
    attention: async (index) => {
      run ??= startRun(
        config,
        layers,
        complete,
        calibration,
        backend ?? fail(ArgumentError, "convert", "latent needs a backend to calibrate on"),
      );
      const { layer, errorBefore, error, latent } = await run.convertNext();
      onLayer?.({ layer: index, errorBefore, error, eigenvalues: latent.eigenvalues });
      return latentTensors(layer, attention, residual);
    },
    carried: carriedUnder(source, residual),
    dispose: () => run?.[Symbol.dispose](),
  };
}

/** Converts one layer after the other. */
interface LayerConversion extends Disposable {
  convertNext(): Promise<{
    readonly layer: LatentLayer;
    readonly latent: JointLatent;
    readonly errorBefore?: number;
    readonly error: number;
  }>;
}

function startRun(
  config: ModelConfig,
  layers: SourceLayers,
  recipe: CompleteRecipe | CompletePublished,
  windows: Calibration["calibration"],
  backend: Backend,
): LayerConversion {
  const options = { backend, windows };
  return recipe.recipe === "transmla"
    ? new PublishedRun(config, layers, { ...options, recipe })
    : new LatentRun(config, layers, options, async (layer) => convertLayer(layer, recipe));
}

function requireExpressible({ config, weights }: GroupedSource): void {
  const bias = weights.names.find((name) => /\.self_attn\.[qkvo]_proj\.bias$/.test(name));
  const missing = bias
    ? `attention bias here (${bias})`
    : (deepseekLimit(config, weights.names) ?? narrowRopeLimit(config));
  if (missing === undefined) return;
  const problem = `latent writes DeepSeek-V3, which has no ${missing}; use --method factored`;
  fail(UnsupportedError, "convert", problem);
}
