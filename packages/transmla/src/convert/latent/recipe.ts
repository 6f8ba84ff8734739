import { ArgumentError, fail } from "@transmla/core";

import type { GroupedAttention } from "../../model/config/model-config.ts";
import type { ProjectedRecipe } from "./projected/recipe.ts";

/** The sizes of a latent conversion, and its ingredients: what is absent is as in the recommended recipe. */
export interface LatentRecipe {
  /** Says that it is this recipe, as its absence does. */
  readonly recipe?: "default" | undefined;
  /** d_r: the width of the shared rotated key, even, at most that of a head. */
  readonly ropeDim: number;
  /** r: the width of the latent. The cache holds `ropeDim + latentRank` numbers per token and layer. */
  readonly latentRank: number;
  /** What stands for the rotation of the keys in the latent: factors that are `fitted`, or `none`. */
  readonly phase?: "fitted" | "none" | undefined;
  /** Whether each head gets maps of its own to latent and rotated key, fitted to its logits: true. */
  readonly logitRefit?: boolean | undefined;
  /** The share of attention-received moments in the covariance, the rest being uniform: 1/2. */
  readonly receivedShare?: number | undefined;
  /** Whether coordinates of the latent have unit mean square: true. */
  readonly whiten?: boolean | undefined;
  /** Compresses the query projection to this rank, by the logits that it changes; `full` when absent. */
  readonly queryRank?: number | "full" | undefined;
  /** The ridge of the refit of `o_proj`, times the mean diagonal: 0.1. `none` keeps the matrix. */
  readonly outputRidge?: number | "none" | undefined;
}

/** A recipe with nothing left open. */
export type CompleteRecipe = {
  readonly [K in keyof LatentRecipe]-?: Exclude<LatentRecipe[K], undefined>;
};

/**
 * Fills in what a recipe leaves open, and checks its sizes.
 *
 * @param recipe - Sizes and ingredients; other properties are ignored.
 * @param c - The attention that is to be converted.
 * @throws ArgumentError for a size that the attention does not have room for.
 */
export function completeRecipe(
  recipe: LatentRecipe | ProjectedRecipe,
  c: GroupedAttention,
): CompleteRecipe {
  const { ropeDim, latentRank } = recipe;
  if (typeof ropeDim !== "number" || typeof latentRank !== "number") {
    return fail(
      ArgumentError,
      "convert",
      "DeepSeek-V3 has the same sizes in all layers; use --target own",
    );
  }
  if (!Number.isInteger(ropeDim) || ropeDim % 2 !== 0 || ropeDim < 2 || ropeDim > c.headDim) {
    const problem = `ropeDim ${ropeDim} must be an even number from 2 to the head width ${c.headDim}`;
    fail(ArgumentError, "convert", problem);
  }
  const most = 2 * c.kvHeads * c.headDim;
  if (!Number.isInteger(latentRank) || latentRank < 1 || latentRank > most) {
    const problem = `latentRank ${latentRank} must be from 1 to ${most}, the numbers that are cached now`;
    fail(ArgumentError, "convert", problem);
  }
  const queryRank = "queryRank" in recipe ? (recipe.queryRank ?? "full") : "full";
  requireQueryRank(queryRank, c);
  return {
    recipe: "default",
    ropeDim,
    latentRank,
    phase: recipe.phase ?? "fitted",
    logitRefit: recipe.logitRefit ?? true,
    receivedShare: recipe.receivedShare ?? 0.5,
    whiten: recipe.whiten ?? true,
    queryRank,
    // 1e-3 fits noise, even with 12 k tokens.
    outputRidge: recipe.outputRidge ?? 0.1,
  };
}

/**
 * Throws unless queries can have a rank.
 *
 * @param rank - The rank.
 * @param c - The attention that is to be converted.
 */
export function requireQueryRank(
  rank: number | "full",
  { heads, headDim }: GroupedAttention,
): void {
  const width = heads * headDim;
  if (rank === "full" || (Number.isInteger(rank) && rank >= 1 && rank < width)) return;
  const problem = `queryRank ${rank} must be from 1 to ${width - 1}, less than the width of all heads`;
  fail(ArgumentError, "convert", problem);
}
