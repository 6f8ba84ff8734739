import { ArgumentError, fail } from "@transmla/core";

import { compare } from "../../../evaluate/evaluate.ts";
import type { Model } from "../../../model/model.ts";
import { groupedSource } from "../../conversion.ts";
import { convert } from "../../convert.ts";
import { range } from "../../host-tensor.ts";
import { modelWeights } from "../../model-weights.ts";
import type { CacheSizes } from "../../targets.ts";
import { LatentRun, type VisitedLayer } from "../latent-run.ts";
import { memoryLayerStore, type LayerStore } from "../layer-store.ts";
import { SourceLayers } from "../source-layers.ts";
import { allocateRanks } from "./allocate-ranks.ts";
import { closedForm, outputFit } from "./convert-projected.ts";
import { narrowed, type ProjectedMatrices } from "./projected-layer.ts";
import { completeProjected, type CompleteProjected, type ProjectedRecipe } from "./recipe.ts";

/** What {@link chooseLayerSizes} needs. */
export interface ChooseLayerSizesOptions extends Omit<ProjectedRecipe, keyof CacheSizes> {
  /** Numbers per token and layer, d_r + r, on average over the layers. */
  readonly cache: number;
  /** Windows of token ids that splits are calibrated on. */
  readonly calibration: readonly (readonly number[])[];
  /** Windows that they are judged by; no part of `calibration`, or the choice favours what fits noise. */
  readonly selection: readonly (readonly number[])[];
  /** Called after each layer with its width and the error of its attention output, were the cache the same everywhere. */
  readonly onLayer?: ((ropeDim: number, error: number) => void) | undefined;
  /** Called after each candidate for the whole model. */
  readonly onCandidate?: ((sizes: LayerSizes) => void) | undefined;
  /** Stops between layers. */
  readonly signal?: AbortSignal | undefined;
}

/** Widths of all layers, as a recipe takes them, and how far predictions are from the source's. */
export interface LayerSizes {
  /** The width of the rotated key of each layer. */
  readonly ropeDim: readonly number[];
  /** The width of the latent of each layer. */
  readonly latentRank: readonly number[];
  /** The layers that were converted: given to a conversion of these sizes, there is nothing left to do. */
  readonly layers: LayerStore;
  /** Mean KL(source || converted) on the selection windows, in nats per token. */
  readonly meanKl: number;
}

/** Ranks are chosen in steps of as many numbers, which vectors of a kernel hold. */
const RANK_STEP = 4;

/**
 * Chooses for every layer how much of the cache it has, and how that is split between rotated key and latent: what
 * `target: "own"` of the latent conversion can have. The width of the rotated key is the one with the least error of the
 * attention output at the average cache. Ranks go where they take most from the sum of the errors of all layers, in
 * units of the residual stream that they are added to, or are what is left of the same cache everywhere: of the two
 * the one whose predictions are nearest to the source's.
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
  const { cache, calibration, selection, onLayer, onCandidate, signal, ...ingredients } = options;
  const { config, attention, weights } = source;
  const recipe = completeProjected({ ...options, ropeDim: 0, latentRank: 1 }, config, attention);
  const { kvHeads, headDim } = attention;
  const half = kvHeads * headDim;
  if (!Number.isInteger(cache) || cache < RANK_STEP || cache > 2 * half) {
    const problem = `a cache of ${cache} numbers per token and layer must be from ${RANK_STEP} to ${2 * half}`;
    fail(ArgumentError, "convert", problem);
  }
  const step = 2 * Math.max(1, Math.round(headDim / 16));
  const widths = range(0, Math.floor(Math.min(cache - RANK_STEP, half) / step) + 1).map(
    (i) => i * step,
  );
  let start = Math.min(Math.round(headDim / 2 / step), widths.length - 1);
  const sourceLayers = new SourceLayers(config, attention, weights);
  const firstKey = recipe.exactFirst ? 1 : 0;
  let judge: VisitedLayer;
  using calibrating = new LatentRun(
    config,
    sourceLayers,
    { backend, windows: calibration, firstKey },
    async (layer) => {
      const split = await chooseSplit(layer, judge, { cache, widths, start }, recipe);
      start = split.at;
      return split;
    },
  );
  using judging = new LatentRun(
    config,
    sourceLayers,
    { backend, windows: selection, firstKey },
    async (layer) => {
      judge = layer;
      return calibrating.convert(layer.index);
    },
  );
  const ropeDim: number[] = [];
  const gains: number[][] = [];
  while (ropeDim.length < config.layers) {
    signal?.throwIfAborted();
    const found = await judging.convert(ropeDim.length);
    ropeDim.push(widths[found.at]!);
    gains.push(sumsOfSteps(found.worth));
    onLayer?.(widths[found.at]!, found.value);
  }
  const left = config.layers * cache - sum(ropeDim);
  const steps = allocateRanks(gains, Math.floor(left / RANK_STEP), 1);
  const found: LayerSizes[] = [];
  for (const latentRank of [
    steps.map((count) => count * RANK_STEP),
    ropeDim.map((width) => cache - width),
  ]) {
    const candidate = { ...ingredients, ropeDim, latentRank, layers: memoryLayerStore() };
    const method = { method: "latent", target: "own", ...candidate, calibration } as const;
    using converted = await convert(model, { ...method, signal });
    const [comparison] = await compare(model, [converted], selection, { signal });
    const { layers } = candidate;
    found.push({ ropeDim, latentRank, layers, meanKl: comparison!.meanKl });
    onCandidate?.(found.at(-1)!);
  }
  return found.toSorted((a, b) => a.meanKl - b.meanKl)[0]!;
}

/** The best of some widths of the rotated key, its error, and what each component of the latent is worth behind it. */
async function chooseSplit(
  layer: VisitedLayer,
  judge: VisitedLayer,
  { cache, widths, start }: Readonly<{ cache: number; widths: readonly number[]; start: number }>,
  recipe: CompleteProjected,
): Promise<{ readonly at: number; readonly value: number; readonly worth: Float64Array }> {
  const errorOf = async (closed: ProjectedMatrices): Promise<number> =>
    (await outputFit(closed, judge)).unchanged(judge.source.o).error;
  const { at, value, closed, latent } = await lowest(widths.length, start, async (index) => {
    const sizes = { ropeDim: widths[index]!, latentRank: cache - widths[index]! };
    const form = await closedForm(layer, sizes, recipe);
    return { value: await errorOf(form.layer), closed: form.layer, latent: form.latent };
  });
  // The eigenvalues say how the error falls, two errors how far.
  const rank = latent.encode.rows;
  const half = Math.ceil(rank / 2);
  const lost = (await errorOf(narrowed(closed, half))) - value;
  const behind = sum(latent.eigenvalues.subarray(half, rank));
  const unit = lost > 0 && behind > 0 ? (lost / behind) * (await shareOfStream(judge)) : 0;
  return { at, value, worth: latent.eigenvalues.map((x) => x * unit) };
}

/**
 * The power of the attention output over that of the residual stream it becomes a part of, which the next norm divides by.
 * First positions are left out: theirs is not typical.
 */
async function shareOfStream({ calibrated, streams }: VisitedLayer): Promise<number> {
  let [own, all] = [0, 0];
  for (const [window, stream] of streams.entries()) {
    const before = await stream.read();
    const output = await calibrated.outputs[window]!.read();
    for (let i = stream.shape[1]!; i < output.length; i++) {
      own += output[i]! ** 2;
      all += (before[i]! + output[i]!) ** 2;
    }
  }
  return all > 0 ? own / all : 0;
}

/** Sums of as many numbers at a time as a step of a rank is. */
function sumsOfSteps(values: Float64Array): number[] {
  const count = Math.floor(values.length / RANK_STEP);
  return range(0, count).map((i) => sum(values.subarray(i * RANK_STEP, (i + 1) * RANK_STEP)));
}

const sum = (values: Iterable<number>): number =>
  [...values].reduce((all, value) => all + value, 0);

/** Walks downhill from a start; values fall to one minimum and rise behind it. */
async function lowest<T extends { readonly value: number }>(
  count: number,
  start: number,
  at: (index: number) => Promise<T>,
): Promise<T & { readonly at: number }> {
  let best = { ...(await at(start)), at: start };
  for (const direction of [1, -1]) {
    for (let next = start + direction; next >= 0 && next < count; next += direction) {
      const found = await at(next);
      if (!(found.value < best.value)) break;
      best = { ...found, at: next };
    }
    if (best.at > start) break; // downhill was upwards
  }
  return best;
}
