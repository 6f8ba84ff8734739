import { ArgumentError, fail } from "@transmla/core";

import { compare } from "../../evaluate/evaluate.ts";
import type { Model } from "../../model/model.ts";
import { groupedSource } from "../conversion.ts";
import { convert } from "../convert.ts";
import { modelWeights } from "../model-weights.ts";
import type { CacheSizes, Target } from "../targets.ts";
import { memoryLayerStore, type LayerStore } from "./layer-store.ts";
import { convertCandidates } from "./method.ts";

/** Sizes of a latent conversion, and how far its predictions are from the source's. */
export interface LatentSizes extends CacheSizes {
  /** Of the published recipe: how many frequencies share their components. */
  readonly fold?: number | undefined;
  /** Of the default recipe: how many components of each frequency keep their rotation. */
  readonly components?: number | undefined;
  /** The layers that were converted: given to a conversion of these sizes, there is nothing left to do. */
  readonly layers: LayerStore;
  /** Mean KL(source || converted) on the selection windows, in nats per token. */
  readonly meanKl: number;
}

/** What {@link chooseLatentSizes} needs. */
export interface ChooseLatentSizesOptions {
  /** Numbers per token and layer: d_r + r. */
  readonly cache: number;
  /** Which recipe; `default` when absent. */
  readonly recipe?: "default" | "transmla" | undefined;
  /** Windows of token ids that candidates are calibrated on. */
  readonly calibration: readonly (readonly number[])[];
  /** Windows that they are judged by; no part of `calibration`, or the choice favours what fits noise. */
  readonly selection: readonly (readonly number[])[];
  /** The runtime that must hold the result. */
  readonly target?: Target | undefined;
  /** Called after each candidate. */
  readonly onCandidate?: ((sizes: LatentSizes, done: number, total: number) => void) | undefined;
  /** Stops between tensors. */
  readonly signal?: AbortSignal | undefined;
}

/** Widths of the rotated key that are tried, as parts of the width of a head. */
const ROPE_SHARES = [1 / 2, 5 / 8, 3 / 4, 1];

/** Components of each frequency that are tried where the runtime reads repeated frequencies. */
const COMPONENTS = [1, 2, 3];

/** Parts of the width of a head that the published recipe is tried with; they must divide it. */
const PUBLISHED_SHARES = [1 / 4, 1 / 2, 1];

/** Folds that the published recipe is tried with, times the least. */
const FOLDS = [1, 2, 4];

/**
 * Chooses how a cache of given size is split between the rotated key and the latent: converts the model for a few
 * widths of the rotated key, and takes the one whose predictions are nearest to the source's.
 *
 * @param model - A model with grouped attention.
 * @param options - The cache, and windows of token ids.
 * @returns The candidates, best first.
 * @throws ArgumentError when no split fits the cache.
 */
export async function chooseLatentSizes(
  model: Model,
  options: ChooseLatentSizesOptions,
): Promise<[LatentSizes, ...LatentSizes[]]> {
  const { cache, recipe, calibration, selection, target, signal } = options;
  const splits = latentSplits(model, cache, recipe, target);
  const candidates = splits.map((sizes) => ({ ...sizes, recipe, layers: memoryLayerStore() }));
  if (recipe !== "transmla") {
    const source = groupedSource(model.huggingFaceConfig, modelWeights(model));
    const tried = candidates.map(({ layers, ...sizes }) => ({
      recipe: { ...sizes, recipe: "default" as const },
      layers,
    }));
    await convertCandidates(source, tried, calibration, model.backend, signal);
  }
  const found: LatentSizes[] = [];
  for (const { recipe: _, ...candidate } of candidates) {
    const method = { method: "latent", ...candidate, recipe, calibration, target } as const;
    using converted = await convert(model, { ...method, signal });
    const [comparison] = await compare(model, [converted], selection, { signal });
    found.push({ ...candidate, meanKl: comparison!.meanKl });
    options.onCandidate?.(found.at(-1)!, found.length, splits.length);
  }
  return found.toSorted((a, b) => a.meanKl - b.meanKl) as [LatentSizes, ...LatentSizes[]];
}

/**
 * The splits of a cache that are tried.
 *
 * @param model - A model with grouped attention.
 * @param cache - d_r + r.
 * @param recipe - Which recipe.
 * @param target - `transformers` reads repeated frequencies, so that several components of each are tried too.
 * @throws ArgumentError when no split fits the cache.
 */
export function latentSplits(
  { config: { attention } }: Model,
  cache: number,
  recipe: "default" | "transmla" = "default",
  target?: Target,
): Omit<LatentSizes, "meanKl" | "layers">[] {
  if (attention.kind !== "grouped") return [];
  const { kvHeads, headDim } = attention;
  const published = recipe === "transmla";
  const shares = published ? PUBLISHED_SHARES : ROPE_SHARES;
  const widths = [...new Set(shares.map((share) => 2 * Math.round((share * headDim) / 2)))];
  const most = 2 * kvHeads * headDim;
  const repeats = !published && target === "transformers" ? COMPONENTS : [1];
  const splits = repeats
    .filter((components) => components <= kvHeads)
    .flatMap((components) =>
      widths.map((width) => ({
        ropeDim: components * width,
        latentRank: cache - components * width,
        ...(components > 1 && { components }),
      })),
    )
    // Several components must leave a latent of some width.
    .filter(({ components, latentRank }) => !components || 3 * latentRank >= cache)
    .filter(({ ropeDim, latentRank }) => {
      const room = published ? most - ropeDim : most;
      return ropeDim > 0 && latentRank >= 1 && latentRank <= room;
    })
    .flatMap((sizes) =>
      published
        ? FOLDS.map((times) => ({ ...sizes, fold: (times * headDim) / sizes.ropeDim })).filter(
            ({ fold }) => Number.isInteger(fold) && (headDim / 2) % fold === 0,
          )
        : [sizes],
    );
  if (splits.length > 0) return splits;
  const [least, greatest] = [Math.min(...widths) + 1, published ? most : most + headDim];
  const problem = `a cache of ${cache} numbers per token and layer must be from ${least} to ${greatest}`;
  return fail(ArgumentError, "convert", problem);
}
