import { concat, matmul, scope, type Tensor } from "@transmla/core";
import { identity, type LinalgOptions } from "@transmla/core/linalg";

import { unitPhases, type ComplexVector } from "./algebra/complex-pairs.ts";
import { RelativeError, upload } from "./algebra/device.ts";
import { rowsOf } from "./algebra/matrices.ts";
import { assembleLatent, latentHeads, uploadLatent, type LatentLayer } from "./latent-layer.ts";
import type { VisitedLayer } from "./latent-run.ts";
import { slotChoice, type CompleteRecipe } from "./recipe.ts";
import { refitAndStep, stepLayer } from "./refine/layer-steps.ts";
import {
  rotate,
  rotationTables,
  uploadAttention,
  withBiasColumns,
  withOnes,
  type AttentionTensors,
  type HeadNormWeights,
  type LayerInputs,
  type SourceAttention,
} from "./source-layer.ts";
import { jointLatent, type JointLatent } from "./steps/joint-latent.ts";
import { linearHeads, linearOutputs } from "./steps/linear-heads.ts";
import { LogitSquares, type KeyFeatures } from "./steps/logit-gradient.ts";
import { refitLogits } from "./steps/logit-refit.ts";
import { fitMeanPhases } from "./steps/mean-phase.ts";
import { MomentSums, type Moments } from "./steps/moments.ts";
import { OutputFit } from "./steps/output-refit.ts";
import { factorQueries, inputMoment, queryMetrics } from "./steps/query-factors.ts";
import { chooseSlots, type Slots } from "./steps/slots.ts";

/** What is known of a layer from calibration, for every recipe. */
export interface CalibratedLayer extends Disposable {
  /** The layer, with linear queries and keys where a conversion needs them to be. */
  readonly source: SourceAttention;
  readonly moments: Moments;
  /** The weights on the backend. */
  readonly tensors: AttentionTensors;
  /** The outputs of the original attention, `[T, D]` for each window. */
  readonly outputs: readonly Tensor[];
  /** `Σ |y' - y|² / Σ |y|²` of the attention output with linear queries and keys in place of normalised ones. */
  readonly linearError: number | undefined;
}

/** A converted layer and the steps to it. */
export interface ConvertedLayer {
  readonly layer: LatentLayer;
  readonly moments: Moments;
  readonly slots: Slots;
  readonly phases: readonly ComplexVector[];
  readonly latent: JointLatent;
  /** `Σ |y' - y|² / Σ |y|²` of the attention output over the calibration tokens, with the original output matrix. */
  readonly errorBefore: number;
  /** The same of the result. */
  readonly error: number;
}

/** How a layer is calibrated. */
export interface CalibrateOptions {
  /** The kernels. */
  readonly linalg?: LinalgOptions | undefined;
  /** The first position that counts as a key: 1 where the first one is kept exactly; 0 when absent. */
  readonly firstKey?: 0 | 1 | undefined;
  /** Whether queries and keys must be linear in the inputs, without norms. */
  readonly linear?: boolean | undefined;
}

/**
 * Runs the original attention of a layer over all windows.
 *
 * @param original - The layer.
 * @param inputs - Its inputs.
 * @param options - How.
 * @returns Moments, and tensors that the caller disposes of.
 */
export async function calibrateLayer(
  original: SourceAttention,
  inputs: LayerInputs,
  { linalg = {}, firstKey = 0, linear = false }: CalibrateOptions = {},
): Promise<CalibratedLayer> {
  const own = uploadAttention(inputs.backend, original, inputs.positions);
  const made: Disposable[] = [own];
  const dispose = (): void => made.forEach((held) => held[Symbol.dispose]());
  try {
    const { source, tensors } =
      linear && original.norms
        ? await withLinearHeads({ ...original, norms: original.norms }, inputs, own, linalg)
        : { source: original, tensors: own };
    if (tensors.linear) made.push(tensors.linear);
    const sums = new MomentSums(source, firstKey);
    const error = new RelativeError();
    const outputs: Tensor[] = [];
    for (let window = 0; window < inputs.windows; window++) {
      using x = inputs.at(window);
      const output = await sums.add(x, tensors);
      made.push(output);
      outputs.push(output);
      if (!tensors.linear) continue;
      using found = scope(() => linearOutputs(x, tensors, source));
      await error.add(found, output);
    }
    return {
      source,
      moments: sums.finish(linalg),
      tensors,
      outputs,
      linearError: tensors.linear && error.value,
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** A layer with linear queries and keys, on the backend beside the normalised ones. */
async function withLinearHeads(
  source: SourceAttention & { readonly norms: HeadNormWeights },
  inputs: LayerInputs,
  tensors: AttentionTensors,
  options: LinalgOptions,
): Promise<{ readonly source: SourceAttention; readonly tensors: AttentionTensors }> {
  const rows = await linearHeads(source, inputs, tensors, options);
  const q = rowsOf(rows, 0, source.q.rows);
  const k = rowsOf(rows, source.q.rows, rows.rows);
  return {
    source: { ...source, q, k, norms: undefined },
    tensors: { ...tensors, linear: upload(inputs.backend, rows) },
  };
}

/**
 * Converts the attention of a layer: slots, mean phase, latent, output matrix.
 *
 * @param visited - The layer.
 * @param recipe - Sizes and ingredients.
 */
export async function convertLayer(
  visited: VisitedLayer,
  recipe: CompleteRecipe,
): Promise<ConvertedLayer> {
  const { source, inputs, teacher, calibrated, linalg: options } = visited;
  const { moments, tensors } = calibrated;
  const slots = chooseSlots(moments, source.attention, slotChoice(recipe), options);
  const frequencies = slots.pairs.map((pair) => source.frequencies[pair]!);
  const phases =
    recipe.phase === "none"
      ? moments.queries.map(() => unitPhases(source.frequencies.length))
      : (await fitMeanPhases(source, inputs, tensors, { slots, moments }, options)).phases;
  const latent = jointLatent(source, moments, slots, phases, {
    ...options,
    rank: recipe.latentRank,
    receivedShare: recipe.receivedShare,
    metric: recipe.metric,
    whiten: recipe.whiten,
  });
  const augmented = withBiasColumns(source);
  // A bias of queries passes through a latent of them, which has one.
  const direct = source.biases && { down: augmented.q, up: identity(augmented.q.rows) };
  const factors =
    recipe.queryRank === "full"
      ? direct
      : factorQueries(
          source.q,
          await inputMoment(inputs),
          recipe.queryRank,
          await queryMetrics(source, tensors, inputs),
          options,
        );
  const factored = factors ? { ...augmented, q: factors.up } : augmented;
  const closed: LatentLayer = {
    ...assembleLatent(factored, slots, phases, latent, options),
    queryDown: factors?.down,
    outputBias: source.biases?.o,
  };
  let layer = closed;
  if (recipe.logitRefit) {
    const features = latentFeatures(closed, frequencies);
    const width = recipe.latentRank + recipe.ropeDim;
    using squares = await LogitSquares.over(source, tensors, features, width, inputs, teacher);
    const from = { source: factored, moments, slots, phases, layer: closed };
    layer = await refitLogits(from, squares, options);
  }

  const refitted = await refitAndStep(layer, recipe, {
    fit: async (at) => outputFit(at, frequencies, visited),
    step: async (at) => stepLayer(at, frequencies, visited),
    linalg: options,
  });
  return { ...refitted, moments, slots, phases, latent };
}

/** What is needed to refit the output matrix of a layer, over all windows. */
async function outputFit(
  layer: LatentLayer,
  frequencies: readonly number[],
  { source, inputs, goal }: VisitedLayer,
): Promise<OutputFit> {
  const fit = new OutputFit(source.o.cols, source.o.rows);
  using output = upload(inputs.backend, layer.output);
  using converted = uploadLatent(inputs.backend, layer, frequencies, inputs.positions);
  for (let window = 0; window < inputs.windows; window++) {
    using x = inputs.at(window);
    using heads = scope(() => latentHeads(x, converted, source.attention));
    using wanted = goal(window);
    await fit.add(heads, wanted.target, output, wanted.weights);
  }
  return fit;
}

/** Latent and rotated key of a layer as features of its keys. */
function latentFeatures(
  { latent, keyRope }: Pick<LatentLayer, "latent" | "keyRope">,
  frequencies: readonly number[],
): KeyFeatures {
  return {
    rotated: [frequencies],
    exactFirst: false,
    of: ({ x: inputs }) => {
      const x = withOnes(inputs, latent.cols);
      const T = x.shape[0]!;
      const key = matmul(x, upload(x.backend, keyRope).transpose()).reshape([T, 1, keyRope.rows]);
      const rotated = rotate(key, rotationTables(x.backend, frequencies, T));
      const own = matmul(x, upload(x.backend, latent).transpose());
      return concat([own, rotated.reshape([T, keyRope.rows])], 1);
    },
  };
}
