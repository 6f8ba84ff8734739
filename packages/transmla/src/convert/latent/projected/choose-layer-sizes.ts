import { ArgumentError, fail } from "@transmla/core";

import type { Model } from "../../../model/model.ts";
import { groupedSource } from "../../conversion.ts";
import { range } from "../../host-tensor.ts";
import { modelWeights } from "../../model-weights.ts";
import type { CacheSizes } from "../../targets.ts";
import { LatentRun, type VisitedLayer } from "../latent-run.ts";
import { SourceLayers } from "../source-layers.ts";
import { closedForm, outputFit } from "./convert-projected.ts";
import { completeProjected, type ProjectedRecipe } from "./recipe.ts";

/** What {@link chooseLayerSizes} needs. */
export interface ChooseLayerSizesOptions extends Omit<ProjectedRecipe, keyof CacheSizes> {
  /** Numbers per token and layer: d_r + r. */
  readonly cache: number;
  /** Windows of token ids that splits are calibrated on. */
  readonly calibration: readonly (readonly number[])[];
  /** Windows that they are judged by; no part of `calibration`, or the choice favours what fits noise. */
  readonly selection: readonly (readonly number[])[];
  /** Called after each layer. */
  readonly onLayer?: ((sizes: CacheSizes, error: number) => void) | undefined;
  /** Stops between layers. */
  readonly signal?: AbortSignal | undefined;
}

/** Widths of all layers, as a recipe takes them. */
export interface LayerSizes {
  /** The width of the rotated key of each layer. */
  readonly ropeDim: readonly number[];
  /** The width of the latent of each layer. */
  readonly latentRank: readonly number[];
}

/**
 * Chooses for every layer how its cache is split between rotated key and latent, by the error of its attention output:
 * what `target: "own"` of the latent conversion can have.
 *
 * @param model - A model with grouped attention.
 * @param options - The cache, ingredients, and windows.
 */
export async function chooseLayerSizes(
  model: Model,
  options: ChooseLayerSizesOptions,
): Promise<LayerSizes> {
  const source = groupedSource(model.huggingFaceConfig, modelWeights(model));
  const { backend } = model;
  const { cache, calibration, selection, onLayer, signal } = options;
  const { config, attention, weights } = source;
  const recipe = completeProjected({ ...options, ropeDim: 0, latentRank: 1 }, config, attention);
  const { kvHeads, headDim } = attention;
  const half = kvHeads * headDim;
  if (!Number.isInteger(cache) || cache < 1 || cache > 2 * half) {
    const problem = `a cache of ${cache} numbers per token and layer must be from 1 to ${2 * half}`;
    fail(ArgumentError, "convert", problem);
  }
  const step = 2 * Math.max(1, Math.round(headDim / 16));
  const widths = range(0, Math.floor(Math.min(cache - 1, half) / step) + 1).map((i) => i * step);
  let start = Math.min(Math.round(headDim / 2 / step), widths.length - 1);
  const layers = new SourceLayers(config, attention, weights);
  const firstKey = recipe.exactFirst ? 1 : 0;
  let judge: VisitedLayer;
  using calibrating = new LatentRun(
    config,
    layers,
    { backend, windows: calibration, firstKey },
    async (layer) => {
      const best = await lowest(widths.length, start, async (at) => {
        const sizes = { ropeDim: widths[at]!, latentRank: cache - widths[at]! };
        const { layer: closed } = await closedForm(layer, sizes, recipe);
        return (await outputFit(closed, judge)).unchanged(judge.source.o).error;
      });
      start = best.at;
      return { ropeDim: widths[best.at]!, error: best.value };
    },
  );
  using judging = new LatentRun(
    config,
    layers,
    { backend, windows: selection, firstKey },
    async (layer) => {
      judge = layer;
      return calibrating.convert(layer.index);
    },
  );
  const ropeDim: number[] = [];
  while (ropeDim.length < config.layers) {
    signal?.throwIfAborted();
    const found = await judging.convert(ropeDim.length);
    ropeDim.push(found.ropeDim);
    onLayer?.({ ropeDim: found.ropeDim, latentRank: cache - found.ropeDim }, found.error);
  }
  return { ropeDim, latentRank: ropeDim.map((width) => cache - width) };
}

/** Walks downhill from a start; values fall to one minimum and rise behind it. */
async function lowest(
  count: number,
  start: number,
  valueAt: (at: number) => Promise<number>,
): Promise<{ readonly at: number; readonly value: number }> {
  let best = { at: start, value: await valueAt(start) };
  for (const direction of [1, -1]) {
    for (let at = start + direction; at >= 0 && at < count; at += direction) {
      const value = await valueAt(at);
      if (!(value < best.value)) break;
      best = { at, value };
    }
    if (best.at > start) break; // downhill was upwards
  }
  return best;
}
