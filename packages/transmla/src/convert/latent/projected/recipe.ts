import { ArgumentError, fail } from "@transmla/core";

import type { GroupedAttention, ModelConfig } from "../../../model/config/model-config.ts";
import type { CacheSizes } from "../../targets.ts";
import { requireRefits, type LatentRecipe } from "../recipe.ts";

/**
 * The sizes of a latent conversion for the runtime of this library, of all layers or of each, and its ingredients: what
 * is absent is as in the recommended recipe.
 */
export interface ProjectedRecipe extends Omit<
  LatentRecipe,
  keyof CacheSizes | "queryRank" | "components" | "band" | "field" | "metric"
> {
  /** d_r: the width of the shared rotated key, even, from 0. */
  readonly ropeDim: number | readonly number[];
  /** r: the width of the latent. The cache holds `ropeDim + latentRank` numbers per token. */
  readonly latentRank: number | readonly number[];
  /** Whether the mean key keeps its rotation at all frequencies, as scores that depend on positions alone: true. */
  readonly positions?: boolean | undefined;
  /** Whether the first position is kept exactly: true. */
  readonly exactFirst?: boolean | undefined;
  /** Which components of the keys have a slot of the rotated key: those that lose most without, or the fastest ones. */
  readonly slots?: "free" | "fast band" | undefined;
}

/** A recipe with nothing left open. */
export type CompleteProjected = {
  readonly [K in Exclude<keyof ProjectedRecipe, keyof CacheSizes | "recipe">]-?: Exclude<
    ProjectedRecipe[K],
    undefined
  >;
} & {
  /** The sizes of each layer. */
  readonly sizes: readonly CacheSizes[];
};

/**
 * Fills in what a recipe leaves open, and checks its sizes.
 *
 * @param recipe - Sizes and ingredients; other properties are ignored.
 * @param config - The model.
 * @param c - Its attention.
 * @throws ArgumentError for sizes that the attention does not have room for.
 */
export function completeProjected(
  recipe: ProjectedRecipe,
  { layers }: Pick<ModelConfig, "layers">,
  { kvHeads, headDim }: GroupedAttention,
): CompleteProjected {
  const most = 2 * kvHeads * headDim;
  const each = (name: keyof CacheSizes, accepts: (size: number) => boolean, what: string) => {
    const given = recipe[name];
    const sizes = typeof given === "number" ? Array.from({ length: layers }, () => given) : given;
    if (sizes.length !== layers) {
      const problem = `${name} has ${sizes.length} sizes for ${layers} layers`;
      fail(ArgumentError, "convert", problem);
    }
    const wrong = sizes.find((size) => !Number.isInteger(size) || !accepts(size));
    if (wrong !== undefined) fail(ArgumentError, "convert", `${name} ${wrong} must be ${what}`);
    return sizes;
  };
  const slots = recipe.slots ?? "free";
  const widest = slots === "free" ? most / 2 : headDim;
  const isRopeDim = (size: number): boolean => size >= 0 && size % 2 === 0 && size <= widest;
  const ropeDims = each("ropeDim", isRopeDim, `an even number from 0 to ${widest}`);
  const isRank = (size: number): boolean => size >= 1 && size <= most;
  const ranks = each("latentRank", isRank, `from 1 to ${most}, the numbers that are cached now`);
  const complete = {
    sizes: ropeDims.map((ropeDim, layer) => ({ ropeDim, latentRank: ranks[layer]! })),
    phase: recipe.phase ?? "fitted",
    logitRefit: recipe.logitRefit ?? true,
    receivedShare: recipe.receivedShare ?? 0.5,
    whiten: recipe.whiten ?? true,
    outputRidge: recipe.outputRidge ?? 0.1,
    refine: recipe.refine ?? "none",
    positions: recipe.positions ?? true,
    exactFirst: recipe.exactFirst ?? true,
    slots,
  };
  requireRefits(complete);
  return complete;
}
