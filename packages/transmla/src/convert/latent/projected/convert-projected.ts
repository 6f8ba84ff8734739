import { scope } from "@transmla/core";
import { matrix } from "@transmla/core/linalg";

import type { CacheSizes } from "../../targets.ts";
import { unitPhases } from "../algebra/complex-pairs.ts";
import { upload } from "../algebra/device.ts";
import type { VisitedLayer } from "../latent-run.ts";
import { refitAndStep } from "../refine/layer-steps.ts";
import { project } from "../source-layer.ts";
import { jointLatent, type JointLatent } from "../steps/joint-latent.ts";
import { LogitSquares } from "../steps/logit-gradient.ts";
import { refitMaps } from "../steps/logit-refit.ts";
import { fitMeanPhases } from "../steps/mean-phase.ts";
import type { Moments } from "../steps/moments.ts";
import { OutputFit } from "../steps/output-refit.ts";
import { chooseSlots } from "../steps/slots.ts";
import { assembleProjected, type ProjectedMatrices } from "./projected-layer.ts";
import type { CompleteProjected } from "./recipe.ts";
import { deviations, projectedFeatures, uploadProjected } from "./run-layer.ts";
import { stepProjected } from "./step-projected.ts";

/** A converted layer and its error. */
export interface ConvertedProjected {
  readonly layer: ProjectedMatrices;
  readonly latent: JointLatent;
  /** `Σ |y' - y|² / Σ |y|²` of the attention output over the calibration tokens, with the original output matrix. */
  readonly errorBefore: number;
  /** The same of the result. */
  readonly error: number;
}

/** What a layer is before anything is fitted to it. */
export interface ClosedProjected {
  readonly layer: ProjectedMatrices;
  readonly latent: JointLatent;
  /** About the mean, a mixture of uniform and attention-received ones. */
  readonly moments: Moments;
  /** For each head the mean over queries of `Σ p e²`, e the error of the logits that slots and phases leave. */
  readonly residuals: readonly number[];
}

/**
 * Converts the attention of a layer for the runtime of this library.
 *
 * @param visited - The layer.
 * @param sizes - Its sizes.
 * @param recipe - The ingredients.
 */
export async function convertProjected(
  visited: VisitedLayer,
  sizes: CacheSizes,
  recipe: CompleteProjected,
): Promise<ConvertedProjected> {
  const { source, inputs, teacher, calibrated, linalg } = visited;
  const { layer: closed, latent, moments } = await closedForm(visited, sizes, recipe);
  let layer = closed;
  if (recipe.logitRefit) {
    const features = projectedFeatures(source, layer);
    const width = layer.maps[0]!.cols;
    const { tensors } = calibrated;
    using squares = await LogitSquares.over(source, tensors, features, width, inputs, teacher);
    layer = { ...layer, maps: await refitMaps(layer.maps, moments.queries, squares, linalg) };
  }
  const refitted = await refitAndStep(layer, recipe, {
    fit: async (at) => outputFit(at, visited),
    step: async (at) => stepProjected(at, visited),
    linalg,
  });
  return { ...refitted, latent };
}

/**
 * What is needed to judge a layer, and to refit its output matrix, over all windows.
 *
 * @param layer - The layer.
 * @param visited - The original, and the windows.
 */
export async function outputFit(
  layer: ProjectedMatrices,
  { source, inputs, calibrated: { tensors }, goal }: VisitedLayer,
): Promise<OutputFit> {
  const fit = new OutputFit(source.o.cols, source.o.rows);
  using output = upload(inputs.backend, layer.output);
  using runnable = uploadProjected(inputs.backend, layer, source, tensors);
  for (let window = 0; window < inputs.windows; window++) {
    using x = inputs.at(window);
    using heads = scope(() => runnable.heads(project(x, tensors, source.attention)));
    using wanted = goal(window);
    await fit.add(heads, wanted.target, output, wanted.weights);
  }
  return fit;
}

/**
 * Slots, mean phase and latent of a layer.
 *
 * @param visited - The layer.
 * @param sizes - Its sizes.
 * @param recipe - The ingredients.
 */
export async function closedForm(
  { source, inputs, calibrated, linalg }: VisitedLayer,
  { ropeDim, latentRank }: CacheSizes,
  recipe: CompleteProjected,
): Promise<ClosedProjected> {
  const mean = calibrated.moments.means.received.slice();
  if (!recipe.positions) mean.fill(0, 0, mean.length / 2);
  const moments = centredMoments(calibrated.moments, mean, recipe.receivedShare);
  const choice = { ropeDim, choice: recipe.slots };
  const slots = chooseSlots(moments, source.attention, choice, linalg);
  const reading = { mean, positions: recipe.positions, exactFirst: recipe.exactFirst };
  const { phases, residuals } =
    recipe.phase === "none"
      ? { phases: moments.queries.map(() => unitPhases(source.frequencies.length)), residuals: [] }
      : await fitMeanPhases(
          source,
          inputs,
          calibrated.tensors,
          { slots, moments, residual: (keys) => deviations(keys, reading) },
          linalg,
        );
  const latent = jointLatent(source, moments, slots, phases, {
    ...linalg,
    rank: latentRank,
    receivedShare: 0,
    whiten: recipe.whiten,
  });
  const layer = assembleProjected(source, reading, slots, phases, latent, linalg);
  return { layer, latent, moments, residuals };
}

/** Mixed second moments about a mean. */
function centredMoments(moments: Moments, mean: Float64Array, receivedShare: number): Moments {
  const { uniform, received, means } = moments;
  const size = mean.length;
  const mixed = (a: number, b: number): number => (1 - receivedShare) * a + receivedShare * b;
  const average = mean.map((_, i) => mixed(means.uniform[i]!, means.received[i]!));
  const covariance = matrix(size, size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      const at = i * size + j;
      const about = average[i]! * mean[j]! + mean[i]! * average[j]! - mean[i]! * mean[j]!;
      covariance.data[at] = mixed(uniform.data[at]!, received.data[at]!) - about;
    }
  }
  return { ...moments, uniform: covariance, received: covariance };
}
