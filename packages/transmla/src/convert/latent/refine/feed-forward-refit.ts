import {
  gatedActivation,
  matmul,
  scope,
  tensor,
  type GateFunction,
  type Tensor,
} from "@transmla/core";
import type { LinalgOptions, Matrix } from "@transmla/core/linalg";

import type { DenseWeights } from "../../../model/weights.ts";
import { asMatrix, type HostTensor } from "../../host-tensor.ts";
import { owned } from "../algebra/device.ts";
import type { Goal } from "../latent-run.ts";
import type { LayerInputs } from "../source-layer.ts";
import { OutputFit } from "../steps/output-refit.ts";

/**
 * Refits the output matrix of a gated feed-forward layer. Its memory is the square of the inner width, in f64.
 *
 * @param layer - The layer, without biases.
 * @param activation - Of its gates.
 * @param inputs - The windows behind the converted attention.
 * @param goal - What the layer should give of them.
 * @param ridge - Times the mean diagonal.
 * @param options - The kernels.
 * @returns `[D, inner]`.
 */
export async function refitFeedForward(
  layer: DenseWeights<HostTensor>,
  activation: GateFunction,
  inputs: LayerInputs,
  goal: (window: number) => Goal,
  ridge: number,
  options: LinalgOptions,
): Promise<Matrix> {
  const original = asMatrix(layer.down.weight);
  const fit = new OutputFit(original.cols, original.rows);
  const upload = ({ weight: { shape, data } }: DenseWeights<HostTensor>["up"]): Tensor =>
    tensor(inputs.backend, data, shape);
  using weights = owned(() => ({
    gate: upload(layer.gate),
    up: upload(layer.up),
    down: upload(layer.down),
  }));
  for (let window = 0; window < inputs.windows; window++) {
    using gated = scope(() => {
      const x = inputs.at(window);
      const apply = (weight: Tensor): Tensor => matmul(x, weight.transpose());
      return gatedActivation(apply(weights.gate), apply(weights.up), activation);
    });
    using wanted = goal(window);
    await fit.add(gated, wanted.target, weights.down, wanted.weights);
  }
  return fit.finish(original, ridge, options).output;
}
