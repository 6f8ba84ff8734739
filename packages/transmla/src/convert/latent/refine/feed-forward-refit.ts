import { gatedActivation, matmul, scope, type GateFunction, type Tensor } from "@transmla/core";
import type { LinalgOptions, Matrix } from "@transmla/core/linalg";

import type { DenseWeights } from "../../../model/weights.ts";
import type { Goal } from "../latent-run.ts";
import type { LayerInputs } from "../source-layer.ts";
import { OutputFit } from "../steps/output-refit.ts";

/** What a refit needs to know besides weights and windows. */
export interface FeedForwardRefitOptions extends LinalgOptions {
  /** Of the gates. */
  readonly activation: GateFunction;
  /** Times the mean diagonal. */
  readonly ridge: number;
}

/**
 * Refits the output matrix of a gated feed-forward layer. Its memory is the square of the inner width, in f64.
 *
 * @param layer - The layer, without biases.
 * @param original - Its output matrix `[D, inner]` in f64.
 * @param inputs - The windows behind the converted attention.
 * @param goal - What the layer should give of them.
 * @param options - Its gates, the ridge and the kernels.
 * @returns `[D, inner]`.
 */
export async function refitFeedForward(
  { gate, up, down }: DenseWeights<Tensor>,
  original: Matrix,
  inputs: LayerInputs,
  goal: (window: number) => Goal,
  { activation, ridge, ...linalg }: FeedForwardRefitOptions,
): Promise<Matrix> {
  const fit = new OutputFit(original.cols, original.rows);
  for (let window = 0; window < inputs.windows; window++) {
    using gated = scope(() => {
      const x = inputs.at(window);
      const apply = ({ weight }: typeof gate): Tensor => matmul(x, weight.transpose());
      return gatedActivation(apply(gate), apply(up), activation);
    });
    using wanted = goal(window);
    await fit.add(gated, wanted.target, down.weight, wanted.weights);
  }
  return fit.finish(original, ridge, linalg).output;
}
