import {
  add,
  attention,
  concat,
  full,
  matmul,
  rmsNorm,
  rope,
  tensor,
  type Backend,
  type Tensor,
} from "@transmla/core";
import { matrix, type Matrix } from "@transmla/core/linalg";

import type { GroupedAttention } from "../../model/config/model-config.ts";
import { owned, upload } from "./algebra/device.ts";
import { beside } from "./algebra/matrices.ts";

// Shapes: T tokens, H query heads, g kv heads, d head width, D hidden width.

/** The attention of a layer to be converted: its weights in f64, `[out, in]`. */
export interface SourceAttention {
  /** Heads, widths and scale. */
  readonly attention: GroupedAttention;
  /** Radians per position of each RoPE pair, d/2 of them, half-split. */
  readonly frequencies: readonly number[];
  /** `[H d, D]`. */
  readonly q: Matrix;
  /** `[g d, D]`. */
  readonly k: Matrix;
  /** `[g d, D]`. */
  readonly v: Matrix;
  /** `[D, H d]`. */
  readonly o: Matrix;
  /** Those of the projections, `[out]`, where there are any. */
  readonly biases?: AttentionBiases | undefined;
  /** The weights `[d]` of the norms of queries and keys, where there are any, and how they normalise. */
  readonly norms?: HeadNormWeights | undefined;
}

/** Biases of the projections, `[out]`. */
export type AttentionBiases = Readonly<Record<"q" | "k" | "v" | "o", Float64Array>>;

/** Norms of heads. */
export interface HeadNormWeights {
  readonly q: Float64Array;
  readonly k: Float64Array;
  readonly eps: number;
  readonly offset: 0 | 1;
}

/**
 * A layer whose biases are one more column of its projections, for inputs that end in a 1.
 *
 * @param source - The layer.
 */
export function withBiasColumns(source: SourceAttention): SourceAttention {
  const { biases } = source;
  if (!biases) return source;
  const both = (part: "q" | "k" | "v"): Matrix =>
    beside(source[part], matrix(source[part].rows, 1, biases[part]));
  return { ...source, q: both("q"), k: both("k"), v: both("v") };
}

/**
 * Inputs as weights of a width expect them: with a 1 at the end, or as they are.
 *
 * @param x - `[T, D]`.
 * @param width - D or D + 1.
 */
export function withOnes(x: Tensor, width: number): Tensor {
  const [T, D] = x.shape as [number, number];
  return width === D ? x : concat([x, full(x.backend, [T, 1], 1)], 1);
}

/** The calibration windows as a layer sees them. */
export interface LayerInputs {
  /** Where the model runs. */
  readonly backend: Backend;
  /** How many windows. */
  readonly windows: number;
  /** The length of the longest. */
  readonly positions: number;
  /** The normalised inputs `[T, D]` of a window; the caller disposes of them. */
  at(window: number): Tensor;
}

/** Weights of a layer's attention and its rotation tables, on a backend in f32. */
export type AttentionTensors = Readonly<
  Record<"q" | "k" | "v" | "o" | "cos" | "sin", Tensor> &
    Partial<Record<"qBias" | "kBias" | "vBias" | "qNorm" | "kNorm", Tensor>>
> & {
  /** `[H d + g d, D]`: linear queries and keys that stand for normalised ones, where a conversion needs such. */
  readonly linear?: Tensor | undefined;
  /** How heads are normalised. */
  readonly norm?: Pick<HeadNormWeights, "eps" | "offset"> | undefined;
};

/**
 * Uploads the attention of a layer.
 *
 * @param backend - Where to.
 * @param source - The layer.
 * @param positions - The length of the longest window.
 * @returns Tensors that the caller disposes of.
 */
export function uploadAttention(
  backend: Backend,
  source: SourceAttention,
  positions: number,
): AttentionTensors & Disposable {
  const { biases, norms } = source;
  const vectors = [
    ["qBias", biases?.q],
    ["kBias", biases?.k],
    ["vBias", biases?.v],
    ["qNorm", norms?.q],
    ["kNorm", norms?.k],
  ] as const;
  const tensors = owned(() => ({
    q: upload(backend, source.q),
    k: upload(backend, source.k),
    v: upload(backend, source.v),
    o: upload(backend, source.o),
    ...rotationTables(backend, source.frequencies, positions),
    ...Object.fromEntries(
      vectors.flatMap(([name, data]) =>
        data ? [[name, tensor(backend, data, [data.length])]] : [],
      ),
    ),
  }));
  return { ...tensors, norm: norms, [Symbol.dispose]: () => tensors[Symbol.dispose]() };
}

/** Cosines and sines of the rotations of positions 0, 1, 2 ..., `[positions, pairs]` each. */
export type Rotation = Readonly<Record<"cos" | "sin", Tensor>>;

/**
 * Rotation tables, computed in f64 and rounded once.
 *
 * @param backend - Where they live.
 * @param frequencies - Radians per position.
 * @param positions - How many.
 */
export function rotationTables(
  backend: Backend,
  frequencies: readonly number[],
  positions: number,
): Rotation {
  const pairs = frequencies.length;
  const table = (fn: (angle: number) => number): Tensor => {
    const values = Float32Array.from({ length: positions * pairs }, (_, i) =>
      fn(Math.floor(i / pairs) * frequencies[i % pairs]!),
    );
    return tensor(backend, values, [positions, pairs]);
  };
  return { cos: table(Math.cos), sin: table(Math.sin) };
}

/**
 * Rotates `x[T, heads, 2 pairs]`, half-split, at positions 0 to T - 1.
 *
 * @param x - Heads.
 * @param rotation - Tables of at least T positions.
 */
export function rotate(x: Tensor, { cos, sin }: Rotation): Tensor {
  const T = x.shape[0]!;
  return rope(x, cos.slice(0, 0, T), sin.slice(0, 0, T), { interleaved: false });
}

/**
 * Queries `[T, H, d]`, keys and values `[T, g, d]` of a window; those without "rotated" are before RoPE, and linear in the
 * inputs where a conversion needs them to be. Those that are rotated are the original ones always.
 */
export type Projected = Readonly<
  Record<"queries" | "keys" | "values" | "rotatedQueries" | "rotatedKeys", Tensor>
>;

/**
 * Queries, keys and values of a window; the surrounding scope owns them.
 *
 * @param x - The normalised inputs `[T, D]`.
 * @param layer - The weights.
 * @param c - Heads and widths.
 */
export function project(x: Tensor, layer: AttentionTensors, c: GroupedAttention): Projected {
  const split = (part: "q" | "k" | "v", heads: number): Tensor => {
    const rows = matmul(x, layer[part].transpose());
    const bias = layer[`${part}Bias`];
    return (bias ? add(rows, bias) : rows).reshape([x.shape[0]!, heads, c.headDim]);
  };
  const normed = (heads: Tensor, weight: Tensor | undefined): Tensor =>
    weight && layer.norm ? rmsNorm(heads, weight, layer.norm) : heads;
  const queries = normed(split("q", c.heads), layer.qNorm);
  const keys = normed(split("k", c.kvHeads), layer.kNorm);
  const width = c.heads * c.headDim;
  const linear = layer.linear && matmul(x, layer.linear.transpose());
  return {
    queries: linear?.slice(1, 0, width).reshape(queries.shape) ?? queries,
    keys: linear?.slice(1, width, linear.shape[1]!).reshape(keys.shape) ?? keys,
    values: split("v", c.kvHeads),
    rotatedQueries: rotate(queries, layer),
    rotatedKeys: rotate(keys, layer),
  };
}

/**
 * The outputs `[T, D]` of causal attention, without a bias; the surrounding scope owns them.
 *
 * @param rows - Rotated queries and keys, and values.
 * @param layer - The weights.
 * @param c - Heads and widths.
 */
export function attentionOutputs(
  {
    rotatedQueries,
    rotatedKeys,
    values,
  }: Pick<Projected, "rotatedQueries" | "rotatedKeys" | "values">,
  layer: Pick<AttentionTensors, "o">,
  { heads, headDim, scale }: GroupedAttention,
): Tensor {
  const mixed = attention(rotatedQueries, rotatedKeys, values, { scale, causal: true });
  return matmul(mixed.reshape([mixed.shape[0]!, heads * headDim]), layer.o.transpose());
}
