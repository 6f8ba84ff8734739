import { ArgumentError, fail } from "@transmla/core";

import type { GroupedAttention } from "../../../model/config/model-config.ts";
import type { CacheSizes } from "../../targets.ts";
import { requireQueryRank } from "../recipe.ts";

/** The published algorithm (TransMLA, arXiv 2502.07864), without the defects of its reference implementation. */
export interface PublishedRecipe extends CacheSizes {
  /** Says that it is this recipe. */
  readonly recipe: "transmla";
  /**
   * FreqFold: how many adjacent frequencies share their components. A multiple of d / d_r that divides d / 2; the least
   * when absent.
   */
  readonly fold?: number | undefined;
  /** How much larger values count than keys in the joint components, both of mean RMS 1: 1. `none` leaves them as they are. */
  readonly balance?: number | "none" | undefined;
  /** Compresses the query projection to this rank, by its principal components; `full` when absent. */
  readonly queryRank?: number | "full" | undefined;
}

/** A published recipe with nothing left open. */
export type CompletePublished = {
  readonly [K in keyof PublishedRecipe]-?: Exclude<PublishedRecipe[K], undefined>;
};

/**
 * Fills in what a published recipe leaves open, and checks its sizes.
 *
 * @param recipe - Sizes and ingredients; other properties are ignored.
 * @param c - The attention that is to be converted.
 * @throws ArgumentError for a size that the attention does not have room for.
 */
export function completePublished(
  { ropeDim, latentRank, fold, balance, queryRank = "full" }: PublishedRecipe,
  c: GroupedAttention,
): CompletePublished {
  const { kvHeads, headDim: d } = c;
  const collapse = d / ropeDim;
  if (ropeDim < 2 || ropeDim % 2 !== 0 || !Number.isInteger(collapse)) {
    const problem = `ropeDim ${ropeDim} of --recipe transmla must be even and divide the head width ${d}`;
    fail(ArgumentError, "convert", problem);
  }
  const folded = fold ?? collapse;
  if (folded < 1 || folded % collapse !== 0 || (d / 2) % folded !== 0) {
    const problem = `fold ${folded} must be a multiple of ${collapse} (head width / ropeDim) that divides ${d / 2}`;
    fail(ArgumentError, "convert", problem);
  }
  const most = 2 * kvHeads * d - ropeDim;
  if (!Number.isInteger(latentRank) || latentRank < 1 || latentRank > most) {
    const problem = `latentRank ${latentRank} must be from 1 to ${most}, what is left behind the rotated key`;
    fail(ArgumentError, "convert", problem);
  }
  requireQueryRank(queryRank, c);
  return {
    recipe: "transmla",
    ropeDim,
    latentRank,
    fold: folded,
    balance: balance ?? 1,
    queryRank,
  };
}
