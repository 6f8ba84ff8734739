import {
  add,
  affine,
  concat,
  full,
  less,
  matmul,
  mul,
  softmax,
  tensor,
  type Backend,
  type Tensor,
} from "@transmla/core";
import { matrix, multiply, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

import type { GroupedAttention } from "../../../model/config/model-config.ts";
import { complexZeros, type ComplexVector } from "../algebra/complex-pairs.ts";
import { accumulate, gram, owned, readOut } from "../algebra/device.ts";
import { innerProduct } from "../algebra/matrices.ts";
import {
  project,
  type AttentionTensors,
  type Projected,
  type SourceAttention,
} from "../source-layer.ts";

// Second moments of a layer over calibration windows. A window's share is a product of matrices in f32 on the backend;
// windows are added in f64, so that the sums depend neither on their order nor on how they are grouped.

/** Attention probabilities that are held at a time. */
const BLOCK_PROBABILITIES = 2 ** 22;

/** What the closed forms need to know of a layer's activations. Moments are not centred. */
export interface Moments {
  /** E[yᵀy] `[2 g d, 2 g d]` over tokens, y = [keys before RoPE ; values]. */
  readonly uniform: Matrix;
  /** The same, each token weighted by the attention that it receives over all heads and queries. */
  readonly received: Matrix;
  /** The mean of y `[2 g d]`, uniform and by the attention received. */
  readonly means: Readonly<Record<"uniform" | "received", Float64Array>>;
  /** E[qᵀq] `[d, d]` of each query head, before RoPE. */
  readonly queries: readonly Matrix[];
  /** The mean of `e^{i (t - n) theta}` under the attention, for each RoPE pair. */
  readonly meanRotation: ComplexVector;
  /** The mean over heads and queries of the variance of `v W_O` under the attention. */
  readonly outputVariance: number;
}

/** Sums over the windows that have been added so far; their size does not depend on how many. */
export class MomentSums {
  readonly #source: SourceAttention;
  readonly #uniform: Float64Array;
  readonly #received: Float64Array;
  /** `[H, d, d]`: queries, values by the attention received from each head, outputs of each head. */
  readonly #perHead: Readonly<Record<"queries" | "values" | "outputs", Float64Array>>;
  readonly #means: Readonly<Record<"uniform" | "received", Float64Array>>;
  readonly #start: 0 | 1;
  #byDistance: Float64Array = new Float64Array();
  #tokens = 0;
  #keys = 0;
  #receivedTotal = 0;

  /**
   * @param source - The layer.
   * @param start - The first position that counts as a key: 1 where the first one is kept exactly.
   */
  constructor(source: SourceAttention, start: 0 | 1 = 0) {
    const { heads, kvHeads, headDim } = source.attention;
    const width = 2 * kvHeads * headDim;
    const perHead = (): Float64Array => new Float64Array(heads * headDim * headDim);
    this.#source = source;
    this.#uniform = new Float64Array(width * width);
    this.#received = new Float64Array(width * width);
    this.#perHead = { queries: perHead(), values: perHead(), outputs: perHead() };
    this.#means = { uniform: new Float64Array(width), received: new Float64Array(width) };
    this.#start = start;
  }

  /**
   * Runs the attention over a window and adds its moments.
   *
   * @param x - The normalised inputs `[T, D]`.
   * @param layer - The weights of the layer on the backend.
   * @returns The output of the attention `[T, D]`; the caller disposes of it.
   */
  async add(x: Tensor, layer: AttentionTensors): Promise<Tensor> {
    const c = this.#source.attention;
    const T = x.shape[0]!;
    using projected = owned(() => project(x, layer, c));
    const probabilities = new ProbabilitySums(c.heads, T, this.#start);
    const blocks: Tensor[] = [];
    try {
      const perBlock = Math.max(1, Math.floor(BLOCK_PROBABILITIES / (c.heads * T)));
      for (let start = 0; start < T; start += perBlock) {
        const end = Math.min(start + perBlock, T);
        using block = owned(() => attendBlock(projected, c, start, end));
        probabilities.add(await block.received.read(), await block.overHeads.read(), start, end);
        blocks.push(block.mixed.slice(0, 0, end - start));
      }
      using heads = concat(blocks, 0); // [T, H d]
      const received = probabilities.receivedOverHeads();
      const sums = await readOut(() => ({
        ...keyMoments(projected, received, c, this.#start),
        ...headMoments(projected, heads, probabilities, c),
      }));
      accumulate(this.#uniform, sums.uniform);
      accumulate(this.#received, sums.received);
      accumulate(this.#means.uniform, sums.uniformMean);
      accumulate(this.#means.received, sums.receivedMean);
      for (const name of ["queries", "values", "outputs"] as const) {
        accumulate(this.#perHead[name], sums[name]);
      }
      this.#addDistances(probabilities.byDistance);
      this.#tokens += T;
      this.#keys += T - this.#start;
      this.#receivedTotal += received.reduce((sum, weight) => sum + weight, 0);
      using weight = layer.o.transpose();
      return matmul(heads, weight);
    } finally {
      for (const block of blocks) block.dispose();
    }
  }

  #addDistances(byDistance: Float64Array): void {
    if (byDistance.length > this.#byDistance.length) {
      const longer = new Float64Array(byDistance.length);
      longer.set(this.#byDistance);
      this.#byDistance = longer;
    }
    accumulate(this.#byDistance.subarray(0, byDistance.length), byDistance);
  }

  /**
   * The means over all windows so far.
   *
   * @param options - The kernels.
   */
  finish(options: LinalgOptions = {}): Moments {
    const { attention: c, frequencies } = this.#source;
    const width = 2 * c.kvHeads * c.headDim;
    const divided = (sums: Float64Array, count: number): Float64Array =>
      sums.map((sum) => sum / count);
    const mean = (sums: Float64Array, count: number, size: number): Matrix =>
      matrix(size, size, divided(sums, count));
    const head = (sums: Float64Array, h: number): Matrix => {
      const size = c.headDim * c.headDim;
      return mean(sums.subarray(h * size, (h + 1) * size), this.#tokens, c.headDim);
    };
    const variances = outputMetrics(this.#source, options).map((metric, h) => {
      const { values, outputs } = this.#perHead;
      return innerProduct(metric, head(values, h)) - innerProduct(metric, head(outputs, h));
    });
    return {
      uniform: mean(this.#uniform, this.#keys, width),
      received: mean(this.#received, this.#receivedTotal, width),
      means: {
        uniform: divided(this.#means.uniform, this.#keys),
        received: divided(this.#means.received, this.#receivedTotal),
      },
      queries: variances.map((_, h) => head(this.#perHead.queries, h)),
      meanRotation: meanRotation(this.#byDistance, frequencies),
      outputVariance: variances.reduce((sum, variance) => sum + variance, 0) / c.heads,
    };
  }
}

/**
 * `W_O^h W_O^hᵀ` of each query head, `[d, d]`: the metric of values in which lengths are those of their outputs.
 *
 * @param source - The layer.
 * @param options - The kernels.
 */
export function outputMetrics(
  { attention, o }: SourceAttention,
  options: LinalgOptions = {},
): Matrix[] {
  const { heads, headDim } = attention;
  return Array.from({ length: heads }, (_, h) => {
    const columns = matrix(o.rows, headDim);
    for (let i = 0; i < o.rows; i++) {
      const start = i * o.cols + h * headDim;
      columns.data.set(o.data.subarray(start, start + headDim), i * headDim);
    }
    return multiply(columns, columns, { ...options, transposeA: true });
  });
}

/** Sums of the attention probabilities of one window, in f64. */
class ProbabilitySums {
  /** `[H, T]`: the attention that each token receives. */
  readonly received: Float64Array;
  /** `[T]`: the attention paid at each distance, over all heads. */
  readonly byDistance: Float64Array;
  readonly #tokens: number;
  readonly #start: number;

  constructor(heads: number, tokens: number, start: number) {
    this.received = new Float64Array(heads * tokens);
    this.byDistance = new Float64Array(tokens);
    this.#tokens = tokens;
    this.#start = start;
  }

  /** Adds queries `start` to `end - 1`: `received [H, end]`, and the probabilities over all heads `[end - start, end]`. */
  add(received: Float32Array, overHeads: Float32Array, start: number, end: number): void {
    for (let h = 0; h * end < received.length; h++) {
      accumulate(
        this.received.subarray(h * this.#tokens, h * this.#tokens + end),
        received.subarray(h * end, (h + 1) * end),
      );
    }
    for (let t = start; t < end; t++) {
      for (let n = this.#start; n <= t; n++)
        this.byDistance[t - n]! += overHeads[(t - start) * end + n]!;
    }
  }

  /** `[T]`: the attention that keys receive from all heads. */
  receivedOverHeads(): Float64Array {
    const total = new Float64Array(this.#tokens);
    for (let start = 0; start < this.received.length; start += this.#tokens) {
      accumulate(total, this.received.subarray(start, start + this.#tokens));
    }
    return total.fill(0, 0, this.#start);
  }
}

/** Attention of queries `start` to `end - 1`, and sums of its probabilities. */
function attendBlock(
  p: Projected,
  c: GroupedAttention,
  start: number,
  end: number,
): Record<"received" | "overHeads" | "mixed", Tensor> {
  const { heads: H, kvHeads: g, headDim: d } = c;
  const { backend } = p.queries;
  const B = end - start;
  const perGroup = (H / g) * B;
  const queries = p.rotatedQueries.slice(0, start, end).permute(1, 0, 2).reshape([g, perGroup, d]);
  const keys = p.rotatedKeys.slice(0, 0, end).permute(1, 2, 0); // [g, d, end]
  const values = p.values.slice(0, 0, end).permute(1, 0, 2); // [g, end, d]
  const scores = affine(matmul(queries, keys), c.scale).reshape([H, B, end]);
  const weights = softmax(add(scores, future(backend, start, end))); // [H, B, end]
  return {
    received: matmul(full(backend, [1, B], 1), weights),
    overHeads: matmul(full(backend, [1, H], 1), weights.reshape([H, B * end])),
    mixed: matmul(weights.reshape([g, perGroup, end]), values)
      .reshape([H, B, d])
      .permute(1, 0, 2)
      .reshape([B, H * d]),
  };
}

/** `[end - start, end]`: a large negative number where a query would look at a later key. */
function future(backend: Backend, start: number, end: number): Tensor {
  const queryAt = full(backend, [end - start], start, 1).reshape([end - start, 1]);
  return affine(less(queryAt, full(backend, [end], 0, 1)), -1e30);
}

/** Gram matrices and sums of the keys and values of one window. */
function keyMoments(
  p: Projected,
  received: Float64Array,
  c: GroupedAttention,
  start: 0 | 1,
): Record<"uniform" | "received" | "uniformMean" | "receivedMean", Tensor> {
  const { backend } = p.keys;
  const T = p.keys.shape[0]!;
  const width = c.kvHeads * c.headDim;
  const y = concat([p.keys.reshape([T, width]), p.values.reshape([T, width])], 1);
  const weights = tensor(backend, received, [T, 1]);
  const counted = y.slice(0, start, T);
  return {
    uniform: gram(counted, counted),
    received: gram(y, mul(y, weights)),
    uniformMean: gram(full(backend, [T - start, 1], 1), counted),
    receivedMean: gram(weights, y),
  };
}

/** Gram matrices of the heads of one window. */
function headMoments(
  p: Projected,
  headOutputs: Tensor,
  probabilities: ProbabilitySums,
  c: GroupedAttention,
): Record<"queries" | "values" | "outputs", Tensor> {
  const { heads: H, kvHeads: g, headDim: d } = c;
  const T = p.queries.shape[0]!;
  const byHead = tensor(p.queries.backend, probabilities.received, [g, H / g, T, 1]);
  const values = p.values.permute(1, 0, 2).reshape([g, 1, T, d]);
  const perHead = (x: Tensor): Tensor => gram(x.permute(1, 0, 2), x.permute(1, 0, 2)); // [H, d, d]
  return {
    queries: perHead(p.queries),
    values: gram(values, mul(values, byHead)),
    outputs: perHead(headOutputs.reshape([T, H, d])),
  };
}

/**
 * The mean of `e^{i distance theta}` for each frequency.
 *
 * @param byDistance - The weight of each distance, from 0.
 * @param frequencies - Radians per position.
 */
export function meanRotation(
  byDistance: Float64Array,
  frequencies: readonly number[],
): ComplexVector {
  const mean = complexZeros(frequencies.length);
  const total = byDistance.reduce((sum, weight) => sum + weight, 0);
  for (const [l, frequency] of frequencies.entries()) {
    for (let distance = 0; distance < byDistance.length; distance++) {
      mean.re[l]! += (byDistance[distance]! / total) * Math.cos(distance * frequency);
      mean.im[l]! += (byDistance[distance]! / total) * Math.sin(distance * frequency);
    }
  }
  return mean;
}
