import { svd, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

import type { GroupedAttention } from "../model/config/model-config.ts";
import type { GroupedWeights, Linear } from "../model/weights.ts";
import { asMatrix, range, zeros, type HostTensor } from "./host-tensor.ts";

/** How `factored` starts: balanced factors of the SVD, or the original projection and a matrix that repeats heads. */
export type FactoredInit = "svd" | "identity";

/** A projection as the product of two: `up.weight · (down.weight x + down.bias)`. */
export interface Factors {
  /** `[rank, hidden]`; its bias is the source's, in latent coordinates. */
  readonly down: Linear<HostTensor>;
  /** `[heads * headDim, rank]`. */
  readonly up: HostTensor;
}

/** The rows of the source that feed each row of the repeated heads: row (h, i) repeats row (kv(h), i). */
function repeatedRows({ heads, kvHeads, headDim }: GroupedAttention): number[] {
  const perGroup = heads / kvHeads;
  return range(0, heads * headDim).map((row) => {
    const head = Math.floor(row / headDim);
    return Math.floor(head / perGroup) * headDim + (row % headDim);
  });
}

/**
 * TransMLA v1 (arXiv 2502.07864, section 4.2): repeats the kv heads of a key or value projection for all query heads
 * and factors the result, exactly, at rank g d.
 *
 * The repetition S has Sᵀ S = rep I, so the SVD of the repeated projection follows from that of the projection itself:
 * the left vectors are repeated and divided by √rep, the singular values multiplied by √rep.
 *
 * @param projection - `weight [g d, hidden]`, and a bias that is rotated along as one more input column.
 * @param c - The attention of the source.
 * @param init - `svd` gives downᵀ and up with the same Gram matrix (the singular values), `identity` the projection and S.
 * @param options - The kernels.
 */
export function factorProjection(
  projection: Linear<HostTensor>,
  c: GroupedAttention,
  init: FactoredInit,
  options: LinalgOptions = {},
): Factors {
  const rows = repeatedRows(c);
  if (init === "identity") {
    const rank = c.kvHeads * c.headDim;
    const up = zeros(rows.length, rank);
    rows.forEach((source, row) => (up.data[row * rank + source] = 1));
    return { down: projection, up };
  }
  const { u, s, v } = svd(withBiasColumn(projection), options);
  const repeats = c.heads / c.kvHeads;
  const rank = s.length;
  const hidden = projection.weight.shape[1]!;
  const root = s.map((value) => Math.sqrt(value * Math.sqrt(repeats))); // the square roots of the repeated singular values
  const weight = zeros(rank, hidden);
  const bias = projection.bias && zeros(rank);
  for (let k = 0; k < rank; k++) {
    for (let i = 0; i < hidden; i++)
      weight.data[k * hidden + i] = root[k]! * v.data[i * v.cols + k]!;
    if (bias) bias.data[k] = root[k]! * v.data[hidden * v.cols + k]!;
  }
  const up = zeros(rows.length, rank);
  rows.forEach((source, row) => {
    for (let k = 0; k < rank; k++)
      up.data[row * rank + k] = (u.data[source * u.cols + k]! * root[k]!) / Math.sqrt(repeats);
  });
  return { down: { weight, bias }, up };
}

/** `[weight | bias]`: a bias is the weight of a constant input. */
function withBiasColumn({ weight, bias }: Linear<HostTensor>): Matrix {
  if (!bias) return asMatrix(weight);
  const [rows, cols] = weight.shape as [number, number];
  const data = new Float64Array(rows * (cols + 1));
  for (let row = 0; row < rows; row++) {
    data.set(weight.data.subarray(row * cols, (row + 1) * cols), row * (cols + 1));
    data[row * (cols + 1) + cols] = bias.data[row]!;
  }
  return { rows, cols: cols + 1, data };
}

/**
 * The attention tensors of a factored layer, by their names below `self_attn.`; `q_proj` and `o_proj` are carried over.
 *
 * @param w - The source layer.
 * @param c - Its attention.
 * @param init - The factorisation.
 * @param options - The kernels.
 */
export function factoredTensors(
  w: GroupedWeights<HostTensor>,
  c: GroupedAttention,
  init: FactoredInit,
  options: LinalgOptions = {},
): Record<string, HostTensor> {
  const out: Record<string, HostTensor> = {};
  const put = (name: string, { weight, bias }: Linear<HostTensor>): void => {
    out[`${name}.weight`] = weight;
    if (bias) out[`${name}.bias`] = bias;
  };
  if (w.queryNorm) out["q_norm.weight"] = w.queryNorm;
  if (w.keyNorm) out["k_norm.weight"] = w.keyNorm;
  put("q_proj", w.q);
  put("o_proj", w.o);
  for (const [name, projection] of [
    ["k", w.k],
    ["v", w.v],
  ] as const) {
    const { down, up } = factorProjection(projection, c, init, options);
    put(`${name}_a_proj`, down);
    out[`${name}_b_proj.weight`] = up;
  }
  return out;
}

/**
 * The rank of a factored projection: g d, or less where the input is narrower.
 *
 * @param c - The attention of the source.
 * @param init - The factorisation.
 * @param inputs - The width of the input, plus one with a bias.
 */
export function factoredRank(c: GroupedAttention, init: FactoredInit, inputs: number): number {
  const rank = c.kvHeads * c.headDim;
  return init === "identity" ? rank : Math.min(rank, inputs);
}
