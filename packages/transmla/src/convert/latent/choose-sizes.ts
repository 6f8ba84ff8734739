import { ArgumentError, fail } from "@transmla/core";

import { compare } from "../../evaluate/evaluate.ts";
import type { Model } from "../../model/model.ts";
import { convert } from "../convert.ts";
import type { Target } from "../targets.ts";

/** Sizes of a latent conversion, and how far its predictions are from the source's. */
export interface LatentSizes {
  /** d_r: the width of the shared rotated key. */
  readonly ropeDim: number;
  /** r: the width of the latent. */
  readonly latentRank: number;
  /** Mean KL(source || converted) on the selection windows, in nats per token. */
  readonly meanKl: number;
}

/** What {@link chooseLatentSizes} needs. */
export interface ChooseLatentSizesOptions {
  /** Numbers per token and layer: d_r + r. */
  readonly cache: number;
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
  const { cache, calibration, selection, target, signal } = options;
  const splits = latentSplits(model, cache);
  const found: LatentSizes[] = [];
  for (const { ropeDim, latentRank } of splits) {
    using converted = await convert(model, {
      method: "latent",
      ropeDim,
      latentRank,
      calibration,
      target,
      signal,
    });
    const [comparison] = await compare(model, [converted], selection, { signal });
    found.push({ ropeDim, latentRank, meanKl: comparison!.meanKl });
    options.onCandidate?.(found.at(-1)!, found.length, splits.length);
  }
  return found.toSorted((a, b) => a.meanKl - b.meanKl) as [LatentSizes, ...LatentSizes[]];
}

function latentSplits(
  { config: { attention } }: Model,
  cache: number,
): Pick<LatentSizes, "ropeDim" | "latentRank">[] {
  if (attention.kind !== "grouped") return [];
  const { kvHeads, headDim } = attention;
  const most = 2 * kvHeads * headDim;
  const widths = new Set(ROPE_SHARES.map((share) => 2 * Math.round((share * headDim) / 2)));
  const splits = [...widths]
    .map((ropeDim) => ({ ropeDim, latentRank: cache - ropeDim }))
    .filter(({ ropeDim, latentRank }) => ropeDim > 0 && latentRank >= 1 && latentRank <= most);
  if (splits.length > 0) return splits;
  const [least, greatest] = [Math.min(...widths) + 1, most + headDim];
  const problem = `a cache of ${cache} numbers per token and layer must be from ${least} to ${greatest}`;
  return fail(ArgumentError, "convert", problem);
}
