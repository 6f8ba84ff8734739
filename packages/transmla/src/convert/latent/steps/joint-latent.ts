import {
  identity,
  matrix,
  multiply,
  transpose,
  type LinalgOptions,
  type Matrix,
} from "@transmla/core/linalg";

import { multiplyPairs, type ComplexVector } from "../algebra/complex-pairs.ts";
import { multiplyBlocks, rowsOf, symmetricPower, weightedSum } from "../algebra/matrices.ts";
import { principalComponents } from "../algebra/principal-components.ts";
import type { SourceAttention } from "../source-layer.ts";
import { outputMetrics, type Moments } from "./moments.ts";
import type { Slots } from "./slots.ts";

// One latent for the keys without rotation and the values of all kv heads: the best rank-r map in the metric in which
// an error of a key counts by the logits it changes, and an error of a value by the outputs it changes. It contains
// principal components of keys and values (metric 1) and the factorisations by query or output products alone.

/** Eigenvalues of a metric are at least this part of the largest. */
const METRIC_FLOOR = 1e-6;

/** The shared latent of keys and values. */
export interface JointLatent {
  /** `[r, 2 g d]`, acts on [keys before RoPE ; values]; the removal of the slots is a part of it. */
  readonly encode: Matrix;
  /** `[g d, r]`: the keys without rotation. */
  readonly decodeKeys: Matrix;
  /** `[g d, r]`: the values. */
  readonly decodeValues: Matrix;
  /** All 2 g d eigenvalues, descending: the error of rank r is the sum of those behind the first r. */
  readonly eigenvalues: Float64Array;
}

/** Choices of the latent. */
export interface JointLatentOptions extends LinalgOptions {
  /** r, from 1 to 2 g d. */
  readonly rank: number;
  /** The share of the attention-received moments in the covariance, the rest being uniform. */
  readonly receivedShare: number;
  /** Errors count by the logits and outputs that they change, or, with `none`, by their size: `outputs`. */
  readonly metric?: "outputs" | "none" | undefined;
  /** Whether each coordinate of the latent has unit mean square, as stored formats like it. */
  readonly whiten: boolean;
}

/**
 * The best latent of rank r.
 *
 * @param source - The layer.
 * @param moments - Of the layer.
 * @param slots - What keeps its rotation.
 * @param phases - For each head the factors of its queries that stand for the rotation.
 * @param options - Rank, weights and kernels.
 */
export function jointLatent(
  source: SourceAttention,
  moments: Moments,
  slots: Slots,
  phases: readonly ComplexVector[],
  options: JointLatentOptions,
): JointLatent {
  const { rank, receivedShare, metric, whiten } = options;
  const { kvHeads, headDim } = source.attention;
  const metrics =
    metric === "none"
      ? Array.from({ length: 2 * kvHeads }, () => identity(headDim))
      : [
          ...keyMetrics(source, moments, phases),
          ...sumOverGroups(source, outputMetrics(source, options)),
        ];
  const roots = metrics.map((metric) => symmetricPower(metric, 0.5, METRIC_FLOOR, options));
  const inverses = metrics.map((metric) => symmetricPower(metric, -0.5, METRIC_FLOOR, options));
  const covariance = weightedSum([
    [1 - receivedShare, moments.uniform],
    [receivedShare, moments.received],
  ]);
  // (root remove) covariance (root remove)ᵀ, each factor applied to rows.
  const apply = (a: Matrix): Matrix =>
    multiplyBlocks(roots, removeSlots(slots, a, options), options);
  const width = covariance.rows;
  const projected = apply(transpose(apply(covariance)));
  const { encode, decode, eigenvalues } = principalComponents(projected, rank, whiten, options);
  const decoded = multiplyBlocks(inverses, decode, options);
  const inMetric = transpose(multiplyBlocks(roots, transpose(encode), options)); // encode blockdiag(roots)
  return {
    encode: removeSlotsOnRight(slots, inMetric, options),
    decodeKeys: rowsOf(decoded, 0, width / 2),
    decodeValues: rowsOf(decoded, width / 2, width),
    eigenvalues,
  };
}

/** For each kv head the second moment of its queries, in the units of outputs: kappa scale² Σ_h E[(mu q)ᵀ(mu q)]. */
function keyMetrics(
  source: SourceAttention,
  moments: Moments,
  phases: readonly ComplexVector[],
): Matrix[] {
  const factor = moments.outputVariance * source.attention.scale ** 2;
  const turned = moments.queries.map((moment, h) => {
    // P M Pᵀ with the symmetric M: twice the left factor, with a transpose between.
    const both = multiplyPairs(phases[h]!, transpose(multiplyPairs(phases[h]!, moment)));
    return weightedSum([[factor, both]]);
  });
  return sumOverGroups(source, turned);
}

/** Sums of the matrices of the query heads of each kv head. */
function sumOverGroups({ attention }: SourceAttention, perHead: readonly Matrix[]): Matrix[] {
  const repeats = attention.heads / attention.kvHeads;
  return Array.from({ length: attention.kvHeads }, (_, j) =>
    weightedSum(perHead.slice(j * repeats, (j + 1) * repeats).map((term) => [1, term])),
  );
}

/** `blockdiag(1 - rebuild read, 1) a`: takes the slots out of the keys, the first half of the rows. */
function removeSlots(
  { read, rebuild }: Pick<Slots, "read" | "rebuild">,
  a: Matrix,
  options: LinalgOptions,
): Matrix {
  if (read.rows === 0) return a;
  const half = a.rows / 2;
  const held = multiply(rebuild, multiply(read, rowsOf(a, 0, half), options), options);
  const result = matrix(a.rows, a.cols, a.data.slice());
  for (let i = 0; i < held.data.length; i++) result.data[i]! -= held.data[i]!;
  return result;
}

/** `a blockdiag(1 - rebuild read, 1)`. */
function removeSlotsOnRight(slots: Slots, a: Matrix, options: LinalgOptions): Matrix {
  if (slots.pairs.length === 0) return a;
  const mirrored = { read: transpose(slots.rebuild), rebuild: transpose(slots.read) };
  return transpose(removeSlots(mirrored, transpose(a), options));
}
