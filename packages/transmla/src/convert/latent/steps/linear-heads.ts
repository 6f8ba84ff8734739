import { concat, matmul, mul, sum, type Tensor } from "@transmla/core";
import type { LinalgOptions, Matrix } from "@transmla/core/linalg";

import { accumulate, owned, readOut, upload } from "../algebra/device.ts";
import { rowsOf, stackRows } from "../algebra/matrices.ts";
import {
  attentionOutputs,
  project,
  rotate,
  type AttentionTensors,
  type HeadNormWeights,
  type LayerInputs,
  type SourceAttention,
} from "../source-layer.ts";
import { OutputFit } from "./output-refit.ts";

// Where queries and keys are normalised for each head they are not linear in the inputs, as those of a stock latent
// attention must be. Linear ones take their place: each head times the constant that stands for its norm best, and from
// there ridge regression on the normalised heads, which finds the tokens whose norms are unlike the others'.

/** Of the regression, times the mean diagonal. */
const RIDGE = 0.1;

/**
 * Linear queries and keys in place of normalised ones.
 *
 * @param source - A layer with norms of heads.
 * @param inputs - The windows.
 * @param tensors - The weights of the layer on the backend.
 * @param options - The kernels.
 * @returns `[H d + g d, D]`: the weights of queries, then of keys.
 */
export async function linearHeads(
  source: SourceAttention & { readonly norms: HeadNormWeights },
  inputs: LayerInputs,
  tensors: AttentionTensors,
  options: LinalgOptions = {},
): Promise<Matrix> {
  const { norms } = source;
  const plain = stackRows([weighted(source.q, norms.q, norms), weighted(source.k, norms.k, norms)]);
  const constants = await headConstants(source, plain, inputs, tensors);
  const { headDim } = source.attention;
  const prior = { ...plain, data: plain.data.slice() };
  for (const [head, constant] of constants.entries()) {
    const rows = rowsOf(prior, head * headDim, (head + 1) * headDim).data;
    for (let i = 0; i < rows.length; i++) rows[i]! *= constant;
  }
  const fit = new OutputFit(prior.cols, prior.rows);
  using weights = owned(() => ({ prior: upload(inputs.backend, prior) }));
  for (let window = 0; window < inputs.windows; window++) {
    using x = inputs.at(window);
    using heads = owned(() => ({ normalised: bothHeads(x, tensors, source) }));
    await fit.add(x, heads.normalised, weights.prior);
  }
  return fit.finish(prior, RIDGE, options).output;
}

/** The rows of heads times the weight of their norm. */
function weighted(rows: Matrix, norm: Float64Array, { offset }: HeadNormWeights): Matrix {
  const factor = (row: number): number => offset + norm[row % norm.length]!;
  return { ...rows, data: rows.data.map((x, i) => x * factor(Math.floor(i / rows.cols))) };
}

/** `[T, H d + g d]`: normalised queries and keys before RoPE; the surrounding scope owns them. */
function bothHeads(
  x: Tensor,
  tensors: AttentionTensors,
  { attention: c }: SourceAttention,
): Tensor {
  const { queries, keys } = project(x, tensors, c);
  const flat = (heads: Tensor): Tensor => heads.reshape([x.shape[0]!, heads.size / x.shape[0]!]);
  return concat([flat(queries), flat(keys)], 1);
}

/** For each head of queries and of keys the factor of its plain numbers that comes nearest to the normalised ones. */
async function headConstants(
  source: SourceAttention,
  plain: Matrix,
  inputs: LayerInputs,
  tensors: AttentionTensors,
): Promise<Float64Array> {
  const { heads, kvHeads, headDim: d } = source.attention;
  const count = heads + kvHeads;
  const [products, squares] = [new Float64Array(count), new Float64Array(count)];
  using weights = owned(() => ({ plain: upload(inputs.backend, plain) }));
  for (let window = 0; window < inputs.windows; window++) {
    using x = inputs.at(window);
    const sums = await readOut(() => {
      const rows = matmul(x, weights.plain.transpose());
      const perHead = (a: Tensor, b: Tensor): Tensor =>
        sum(
          sum(mul(a, b).reshape([x.shape[0]!, count, d]))
            .reshape([x.shape[0]!, count])
            .transpose(),
        );
      return {
        products: perHead(rows, bothHeads(x, tensors, source)),
        squares: perHead(rows, rows),
      };
    });
    accumulate(products, sums.products);
    accumulate(squares, sums.squares);
  }
  return products.map((product, head) => (squares[head] === 0 ? 0 : product / squares[head]!));
}

/**
 * The outputs `[T, D]` of the original attention with linear heads; the surrounding scope owns them.
 *
 * @param x - The normalised inputs `[T, D]`.
 * @param tensors - The weights of the layer on the backend, with linear heads.
 * @param source - The layer.
 */
export function linearOutputs(
  x: Tensor,
  tensors: AttentionTensors,
  { attention: c }: SourceAttention,
): Tensor {
  const { queries, keys, values } = project(x, tensors, c);
  const rows = {
    rotatedQueries: rotate(queries, tensors),
    rotatedKeys: rotate(keys, tensors),
    values,
  };
  return attentionOutputs(rows, tensors, c);
}
