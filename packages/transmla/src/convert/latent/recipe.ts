import { ArgumentError, fail } from "@transmla/core";

import type { GroupedAttention } from "../../model/config/model-config.ts";
import type { ProjectedRecipe } from "./projected/recipe.ts";
import type { SlotChoice } from "./steps/slots.ts";

/** The sizes of a latent conversion, and its ingredients: what is absent is as in the recommended recipe. */
export interface LatentRecipe {
  /** Says that it is this recipe, as its absence does. */
  readonly recipe?: "default" | undefined;
  /** d_r: the width of the shared rotated key, even, at most that of a head times `components`. */
  readonly ropeDim: number;
  /** r: the width of the latent. The cache holds `ropeDim + latentRank` numbers per token and layer. */
  readonly latentRank: number;
  /**
   * How many components of the keys of all kv heads keep their rotation at each frequency: 1. More need repeated
   * frequencies, which Transformers reads and other stock runtimes do not.
   */
  readonly components?: number | undefined;
  /** Which frequencies keep their rotation: the `fast` ones, or as many spread evenly, as published. */
  readonly band?: "fast" | "even" | undefined;
  /** Whether components mix heads by `complex` numbers or by `real` ones, as published. */
  readonly field?: "complex" | "real" | undefined;
  /** Errors of the latent count by the logits and `outputs` that they change, or by `none` but their size. */
  readonly metric?: "outputs" | "none" | undefined;
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
  /**
   * `sequential`: each layer is fitted to what the converted ones before it give, and `down_proj` is refit too; `steps`:
   * gradient steps on each layer besides, the best at small caches. `none` when absent.
   */
  readonly refine?: "none" | "sequential" | "steps" | undefined;
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
  if (typeof recipe.ropeDim !== "number" || typeof recipe.latentRank !== "number") {
    const problem = "DeepSeek-V3 has the same sizes in all layers; use --target own";
    return fail(ArgumentError, "convert", problem);
  }
  const complete = { ...defaults, ...stated(recipe as LatentRecipe) };
  requireBand(complete, c);
  const most = 2 * c.kvHeads * c.headDim;
  const { latentRank } = complete;
  if (!Number.isInteger(latentRank) || latentRank < 1 || latentRank > most) {
    const problem = `latentRank ${latentRank} must be from 1 to ${most}, the numbers that are cached now`;
    fail(ArgumentError, "convert", problem);
  }
  requireQueryRank(complete.queryRank, c);
  requireRefits(complete);
  return complete;
}

/**
 * Throws where refinement lacks the refits that it consists of.
 *
 * @param recipe - The recipe.
 */
export function requireRefits({
  refine,
  outputRidge,
}: Pick<CompleteRecipe, "refine" | "outputRidge">): void {
  if (refine === "none" || outputRidge !== "none") return;
  fail(ArgumentError, "convert", "refine needs outputRidge: it refits o_proj and down_proj");
}

/** The recommended recipe. */
const defaults = {
  recipe: "default",
  components: 1,
  band: "fast",
  field: "complex",
  metric: "outputs",
  phase: "fitted",
  logitRefit: true,
  receivedShare: 0.5,
  whiten: true,
  queryRank: "full",
  // 1e-3 fits noise, even with 12 k tokens.
  outputRidge: 0.1,
  refine: "none",
} as const;

type Stated = Pick<CompleteRecipe, "ropeDim" | "latentRank"> & Partial<CompleteRecipe>;

/** What a recipe states, without properties that are undefined or no part of it. */
function stated(recipe: LatentRecipe): Stated {
  const names = new Set(["ropeDim", "latentRank", ...Object.keys(defaults)]);
  const entries = Object.entries(recipe).filter(
    ([name, value]) => names.has(name) && value !== undefined,
  );
  return Object.fromEntries(entries) as Stated;
}

/** Throws unless the attention has the slots of a recipe. */
function requireBand({ ropeDim, components, band }: CompleteRecipe, c: GroupedAttention): void {
  if (!Number.isInteger(components) || components < 1 || components > c.kvHeads) {
    const problem = `components ${components} must be from 1 to ${c.kvHeads}, the number of kv heads`;
    fail(ArgumentError, "convert", problem);
  }
  const [step, widest] = [2 * components, components * c.headDim];
  if (!Number.isInteger(ropeDim / step) || ropeDim < step || ropeDim > widest) {
    const allowed =
      components === 1
        ? `an even number from 2 to the head width ${widest}`
        : `a multiple of ${step} from ${step} to ${components} head widths, ${widest}`;
    fail(ArgumentError, "convert", `ropeDim ${ropeDim} must be ${allowed}`);
  }
  if (band === "even" && widest % ropeDim !== 0) {
    fail(ArgumentError, "convert", `ropeDim ${ropeDim} of an even band must divide ${widest}`);
  }
}

/** Which components of the keys a recipe gives a slot. */
export const slotChoice = ({ ropeDim, components, band, field }: CompleteRecipe): SlotChoice => ({
  ropeDim,
  choice: `${band} band`,
  components,
  field,
});

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
