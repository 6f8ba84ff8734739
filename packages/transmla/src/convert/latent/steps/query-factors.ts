import {
  add,
  affine,
  gather,
  matmul,
  mul,
  rope,
  softmax,
  sub,
  tensor,
  type Tensor,
} from "@transmla/core";
import {
  matrix,
  multiply,
  transpose,
  type LinalgOptions,
  type Matrix,
} from "@transmla/core/linalg";

import { accumulate, gram, owned, readOut } from "../algebra/device.ts";
import { multiplyBlocks, symmetricPower } from "../algebra/matrices.ts";
import { principalComponents } from "../algebra/principal-components.ts";
import {
  project,
  rotationTables,
  type AttentionTensors,
  type LayerInputs,
  type SourceAttention,
} from "../source-layer.ts";
import { futureKeys, queryPositions } from "./query-positions.ts";

// Queries of all heads through one narrow latent. The published algorithm takes the principal components of the queries.
// Here an error of a query counts by the logits that it changes: the covariance of the keys under the attention of the
// query is its metric, as a shift of all logits changes nothing.

/** Queries whose keys give the metric: each counts all its keys, so that few are enough. */
const QUERIES = 64;

/** Eigenvalues of a metric are at least this part of the largest. */
const METRIC_FLOOR = 1e-6;

/** A query projection as a product of two: `up down`. */
export interface QueryFactors {
  /** `[rank, D]`; its outputs have unit mean square. */
  readonly down: Matrix;
  /** `[H d, rank]`. */
  readonly up: Matrix;
}

/**
 * The best factors of the query projection for a rank.
 *
 * @param q - The projection `[H d, D]`.
 * @param inputs - E[xᵀx] `[D, D]` of its inputs.
 * @param rank - At most H d and D.
 * @param metrics - For each head the metric of its queries `[d, d]`; lengths when absent, as published.
 * @param options - The kernels.
 */
export function factorQueries(
  q: Matrix,
  inputs: Matrix,
  rank: number,
  metrics: readonly Matrix[] | undefined,
  options: LinalgOptions = {},
): QueryFactors {
  const inMetric = (exponent: number, a: Matrix): Matrix =>
    metrics
      ? multiplyBlocks(
          metrics.map((metric) => symmetricPower(metric, exponent, METRIC_FLOOR, options)),
          a,
          options,
        )
      : a;
  const measured = inMetric(0.5, q); // [H d, D]
  const covariance = multiply(multiply(measured, inputs, options), transpose(measured), options);
  const { encode, decode } = principalComponents(covariance, rank, true, options);
  return { down: multiply(encode, measured, options), up: inMetric(-0.5, decode) };
}

/**
 * E[xᵀx] `[D, D]` over all tokens.
 *
 * @param inputs - The windows.
 */
export async function inputMoment(inputs: LayerInputs): Promise<Matrix> {
  let moment: Matrix | undefined;
  let tokens = 0;
  for (let window = 0; window < inputs.windows; window++) {
    using x = inputs.at(window);
    const [T, width] = x.shape as [number, number];
    const { sums } = await readOut(() => ({ sums: gram(x, x) }));
    moment ??= matrix(width, width);
    accumulate(moment.data, sums);
    tokens += T;
  }
  return { ...moment!, data: moment!.data.map((sum) => sum / tokens) };
}

/**
 * For each head the mean over queries of the covariance of the keys under the attention, `[d, d]`: keys as they stand
 * to a query before its rotation.
 *
 * @param source - The layer.
 * @param tensors - Its weights on the backend.
 * @param inputs - The windows.
 */
export async function queryMetrics(
  source: SourceAttention,
  tensors: AttentionTensors,
  inputs: LayerInputs,
): Promise<Matrix[]> {
  const { heads: H, headDim: d } = source.attention;
  const total = new Float64Array(H * d * d);
  let count = 0;
  for (let index = 0; index < inputs.windows; index++) {
    using x = inputs.at(index);
    const positions = queryPositions(x.shape[0]!, index, inputs.windows, QUERIES);
    using window = owned(() => attentionOf(x, source, tensors, positions));
    for (let i = 0; i < positions.length; i++) {
      const { sums } = await readOut(() => ({ sums: keyCovariances(window, i) }));
      accumulate(total, sums);
      count++;
    }
  }
  return Array.from({ length: H }, (_, h) =>
    matrix(
      d,
      d,
      total.subarray(h * d * d, (h + 1) * d * d).map((sum) => sum / count),
    ),
  );
}

type Attended = Readonly<Record<"keys" | "weights" | "cos" | "sin", Tensor>>;

/** Rotated keys `[T, g, d]`, the attention `[n, g, H/g, T]` of some queries, and the rotations of these. */
function attentionOf(
  x: Tensor,
  { attention: c, frequencies }: SourceAttention,
  tensors: AttentionTensors,
  positions: readonly number[],
): Attended {
  const { heads: H, kvHeads: g, headDim: d } = c;
  const [T, n] = [x.shape[0]!, positions.length];
  const p = project(x, tensors, c);
  const rows = tensor(x.backend, positions, [n], "i32");
  const queries = gather(p.rotatedQueries.reshape([T, H * d]), rows)
    .reshape([n, g, H / g, d])
    .permute(1, 2, 0, 3)
    .reshape([g, (H / g) * n, d]);
  const logits = affine(matmul(queries, p.rotatedKeys.permute(1, 2, 0)), c.scale).reshape([
    H,
    n,
    T,
  ]);
  const weights = softmax(add(logits, futureKeys(x.backend, positions, T)));
  const tables = rotationTables(x.backend, frequencies, T);
  return {
    keys: p.rotatedKeys,
    weights: weights.permute(1, 0, 2).reshape([n, g, H / g, T]),
    cos: gather(tables.cos, rows),
    sin: gather(tables.sin, rows),
  };
}

/** The covariances `[H, d, d]` of the keys under the attention of query i. */
function keyCovariances({ keys, weights, cos, sin }: Attended, i: number): Tensor {
  const [T, g, d] = keys.shape as [number, number, number];
  const perGroup = weights.shape[2]!;
  const table = (of: Tensor, sign: 1 | -1): Tensor =>
    affine(of.slice(0, i, i + 1), sign).expand([T, d / 2]);
  const seen = rope(keys, table(cos, 1), table(sin, -1), { interleaved: false })
    .permute(1, 0, 2)
    .reshape([g, 1, T, d]);
  const p = weights.slice(0, i, i + 1).reshape([g, perGroup, 1, T]);
  const deviations = sub(seen, matmul(p, seen)); // [g, H/g, T, d]
  const weighted = mul(p.reshape([g, perGroup, T, 1]), deviations);
  return matmul(weighted.transpose(), deviations).reshape([g * perGroup, d, d]);
}
