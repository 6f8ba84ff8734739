import type { LinalgOptions, Matrix } from "@transmla/core/linalg";

import { readOut, upload } from "../algebra/device.ts";
import { rowsOf, stackRows } from "../algebra/matrices.ts";
import { uploadLatent, type LatentLayer } from "../latent-layer.ts";
import type { VisitedLayer } from "../latent-run.ts";
import type { CompleteRecipe } from "../recipe.ts";
import type { OutputFit, OutputRefit } from "../steps/output-refit.ts";
import { descend } from "./adam.ts";
import { latentGradient } from "./latent-gradient.ts";

/** Steps of a layer, each on one window. */
export const STEPS = 24;

/** What steps need of a layer that is visited. */
export type SteppedLayer = Pick<VisitedLayer, "inputs" | "goal"> & {
  readonly source: Pick<VisitedLayer["source"], "attention">;
};

/**
 * Improves all matrices of a layer step by step, towards the goal that its output matrix is fitted to. Nothing behind the
 * layer is looked at.
 *
 * @param layer - The layer.
 * @param frequencies - Of its rotated key.
 * @param visited - The windows and the goal.
 * @param steps - How many steps.
 * @returns A layer whose heads read keys and values of their own.
 */
export async function stepLayer(
  layer: LatentLayer,
  frequencies: readonly number[],
  { source: { attention }, inputs, goal }: SteppedLayer,
  steps: number = STEPS,
): Promise<LatentLayer> {
  const { heads, headDim } = attention;
  const { outputBias, queryDown, ...others } = layer;
  const matrices = {
    ...(queryDown && { queryDown }),
    ...others,
    keyUp: perHead(layer.keyUp, heads, headDim),
    valueUp: perHead(layer.valueUp, heads, headDim),
  };
  const found = await descend(
    matrices,
    async (at, step) => {
      const window = stepWindow(step, steps, inputs.windows);
      using tensors = uploadLatent(inputs.backend, at, frequencies, inputs.positions);
      using output = upload(inputs.backend, at.output);
      using x = inputs.at(window);
      using wanted = goal(window);
      return await readOut(() => latentGradient(x, { ...tensors, output }, attention, wanted));
    },
    steps,
  );
  return { ...found, outputBias };
}

/** How the output matrix of a layer is refitted, and the layer stepped. */
export interface RefitAndSteps<L> {
  /** The sums of a layer's refit. */
  readonly fit: (layer: L) => Promise<OutputFit>;
  /** Improves the other matrices too. */
  readonly step: (layer: L) => Promise<L>;
  /** The kernels. */
  readonly linalg: LinalgOptions;
}

/**
 * Refits the output matrix of a layer; where the recipe has steps, also that of the layer they lead to, which is taken if
 * it has the smaller error.
 *
 * @param layer - The layer.
 * @param recipe - The ridge, and whether there are steps.
 * @param how - The refit and the steps.
 */
export async function refitAndStep<L extends { readonly output: Matrix }>(
  layer: L,
  { outputRidge, refine }: Pick<CompleteRecipe, "outputRidge" | "refine">,
  { fit, step, linalg }: RefitAndSteps<L>,
): Promise<{ readonly layer: L; readonly errorBefore: number; readonly error: number }> {
  const refit = async (unfitted: L): Promise<OutputRefit & { readonly layer: L }> => {
    const sums = await fit(unfitted);
    const found =
      outputRidge === "none"
        ? sums.unchanged(unfitted.output)
        : sums.finish(unfitted.output, outputRidge, linalg);
    return { ...found, layer: { ...unfitted, output: found.output } };
  };
  const first = await refit(layer);
  const stepped = refine === "steps" ? await refit(await step(first.layer)) : first;
  const best = stepped.error < first.error ? stepped : first;
  return { layer: best.layer, errorBefore: first.errorBefore, error: best.error };
}

/**
 * The window of a step: each in turn, or spread over all where there are more than steps.
 *
 * @param step - Which step.
 * @param steps - How many there are.
 * @param windows - How many windows there are.
 */
export function stepWindow(step: number, steps: number, windows: number): number {
  return windows > steps ? Math.floor((step * windows) / steps) : step % windows;
}

/**
 * Rows of each kv head once for every query head that reads them.
 *
 * @param up - `[g d, n]`, or `[H d, n]` already.
 * @param heads - H.
 * @param headDim - d.
 */
export function perHead(up: Matrix, heads: number, headDim: number): Matrix {
  const groups = up.rows / headDim;
  if (groups === heads) return up;
  return stackRows(
    Array.from({ length: heads }, (_, h) => {
      const group = Math.floor((h * groups) / heads);
      return rowsOf(up, group * headDim, (group + 1) * headDim);
    }),
  );
}
