// The latent of a smaller cache: which errors a rank costs, and why no other map of that rank costs less.
import { fc } from "@fast-check/vitest";
import { eigh, matrix, multiply, svd, transpose, type Matrix } from "@transmla/core/linalg";
import { expect } from "vitest";

import { innerProduct, stackRows, weightedSum } from "../../src/convert/latent/algebra/matrices.ts";
import type { SourceAttention } from "../../src/convert/latent/source-layer.ts";
import { jointLatent, type JointLatent } from "../../src/convert/latent/steps/joint-latent.ts";
import { outputMetrics, type Moments } from "../../src/convert/latent/steps/moments.ts";
import { chooseSlots, type Slots } from "../../src/convert/latent/steps/slots.ts";
import { EXACT, relativeError } from "./errors.ts";
import { groupedLayer, layerSizes, seeds, type LayerSize } from "./inputs/layers.ts";
import { referenceMoments, sourceAttention } from "./inputs/moments.ts";
import { Random } from "./inputs/random.ts";
import { property } from "./property.ts";

/** A layer whose moments have full rank, with one slot. */
interface Calibrated {
  readonly source: SourceAttention;
  readonly moments: Moments;
  readonly slots: Slots;
}

function calibrated(size: LayerSize): Calibrated {
  const layer = groupedLayer(size);
  const source = sourceAttention(layer);
  const moments = referenceMoments(layer, [layer.x]);
  return {
    source,
    moments,
    slots: chooseSlots(moments, layer.attention, { ropeDim: 2, choice: "fast band" }),
  };
}

/** Small layers on sequences with more tokens than dimensions. */
const small = layerSizes()
  .filter(({ kvHeads, headDim, heads }) => kvHeads * headDim <= 12 && heads <= 8)
  .map((size) => Object.assign({}, size, { tokens: 30 }));

function latentOf({ source, moments, slots }: Calibrated, rank: number): JointLatent {
  const phases = moments.queries.map(() => ({
    re: new Float64Array(source.attention.headDim / 2).fill(1),
    im: new Float64Array(source.attention.headDim / 2),
  }));
  const options = { rank, receivedShare: 0.5, whiten: true };
  return jointLatent(source, moments, slots, phases, options);
}

const reconstruction = ({ decodeKeys, decodeValues, encode }: JointLatent): Matrix =>
  multiply(stackRows([decodeKeys, decodeValues]), encode);

/** `blockdiag(1 - rebuild read, 1)`. */
function removal({ read, rebuild }: Slots): Matrix {
  const half = rebuild.rows;
  const result = matrix(2 * half, 2 * half);
  const held = multiply(rebuild, read);
  for (let i = 0; i < 2 * half; i++) {
    result.data[i * 2 * half + i] = 1;
    if (i >= half) continue;
    for (let j = 0; j < half; j++) result.data[i * 2 * half + j]! -= held.data[i * half + j]!;
  }
  return result;
}

/** The metric: logit errors of keys in output units, output errors of values. */
function metricOf({ source, moments }: Calibrated): Matrix {
  const { heads, kvHeads, headDim, scale } = source.attention;
  const width = kvHeads * headDim;
  const metric = matrix(2 * width, 2 * width);
  const outputs = outputMetrics(source);
  for (let h = 0; h < heads; h++) {
    const group = Math.floor(h / (heads / kvHeads));
    for (let i = 0; i < headDim; i++) {
      for (let j = 0; j < headDim; j++) {
        const key = (group * headDim + i) * 2 * width + group * headDim + j;
        const value = (width + group * headDim + i) * 2 * width + width + group * headDim + j;
        const moment = moments.queries[h]!.data[i * headDim + j]!;
        metric.data[key]! += moments.outputVariance * scale * scale * moment;
        metric.data[value]! += outputs[h]!.data[i * headDim + j]!;
      }
    }
  }
  return metric;
}

/** `tr(M E[e eᵀ])` of the errors `e = (target - map) y`. */
function errorOf(metric: Matrix, covariance: Matrix, target: Matrix, map: Matrix): number {
  const error = weightedSum([
    [1, target],
    [-1, map],
  ]);
  return innerProduct(metric, multiply(multiply(error, covariance), error, { transposeB: true }));
}

const covarianceOf = ({ moments }: Calibrated): Matrix =>
  weightedSum([
    [0.5, moments.uniform],
    [0.5, moments.received],
  ]);

property(
  {
    id: "P27",
    statement:
      "the error of the latent in the metric of logits and outputs is the sum of the eigenvalues behind its rank",
    tolerance: "1e-5 of the total, f64: eigenvalues of the metric have a floor of 1e-6",
    runs: 30,
  },
  [small, fc.double({ min: 0, max: 1, noNaN: true })],
  (size, share) => {
    const layer = calibrated(size);
    const width = 2 * size.kvHeads * size.headDim;
    const rank = 1 + Math.floor(share * (width - 1));
    const latent = latentOf(layer, rank);
    const total = latent.eigenvalues.reduce((sum, value) => sum + value, 0);
    const tail = latent.eigenvalues.subarray(rank).reduce((sum, value) => sum + value, 0);
    const found = errorOf(
      metricOf(layer),
      covarianceOf(layer),
      removal(layer.slots),
      reconstruction(latent),
    );
    expect(Math.abs(found - tail)).toBeLessThan(1e-5 * total);
  },
);

property(
  {
    id: "P28",
    statement:
      "at rank 2gd - d_r the latent holds all of the values and all of the keys behind the slots",
    tolerance: "1e-6 relative, f64",
    runs: 30,
  },
  [small],
  (size) => {
    const layer = calibrated(size);
    const { rows: ropeDim } = layer.slots.read;
    const latent = latentOf(layer, 2 * size.kvHeads * size.headDim - ropeDim);
    // The map differs from the removal of the slots only where there are no keys.
    const actual = multiply(reconstruction(latent), layer.moments.uniform);
    const expected = multiply(removal(layer.slots), layer.moments.uniform);
    expect(relativeError(actual.data, expected.data)).toBeLessThan(1e-6);
  },
);

/** An orthogonal projector onto the span of some columns. */
function projector(columns: Matrix): Matrix {
  const { u } = svd(columns);
  return multiply(u, u, { transposeB: true });
}

function columnsOf(a: Matrix, count: number): Matrix {
  const result = matrix(a.rows, count);
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < count; j++) result.data[i * count + j] = a.data[i * a.cols + j]!;
  }
  return result;
}

const randomMatrix = (random: Random, rows: number, cols: number): Matrix =>
  matrix(rows, cols, Float64Array.from(random.gaussians(rows * cols)));

property(
  {
    id: "P30",
    statement:
      "the latent costs no more, in the metric of logits and outputs, than principal components of keys and values, than those of their weights, and than any of 100 random projectors of the same rank",
    tolerance: "1e-5 of the total, f64",
    runs: 15,
  },
  [small, seeds],
  (size, seed) => {
    const layer = calibrated(size);
    const random = new Random(seed);
    const width = 2 * size.kvHeads * size.headDim;
    const rank = Math.max(1, Math.floor(width / 3));
    const [metric, covariance, target] = [
      metricOf(layer),
      covarianceOf(layer),
      removal(layer.slots),
    ];
    const rest = multiply(multiply(target, covariance), target, { transposeB: true });
    const latent = latentOf(layer, rank);
    const cost = (map: Matrix): number => errorOf(metric, covariance, target, map);
    const best = cost(reconstruction(latent));
    const slack = 1e-5 * innerProduct(metric, rest);
    const weights = multiply(target, stackRows([layer.source.k, layer.source.v]));
    const rivals = [columnsOf(eigh(rest).vectors, rank), columnsOf(svd(weights).u, rank)];
    while (rivals.length < 102) rivals.push(randomMatrix(random, width, rank));
    for (const columns of rivals) {
      expect(best).toBeLessThanOrEqual(cost(multiply(projector(columns), target)) + slack);
    }
  },
);

/** `aᵀ a` for a random `a`, well conditioned. */
function randomMoment(random: Random, size: number): Matrix {
  const a = randomMatrix(random, 3 * size, size);
  return multiply(a, a, { transposeA: true });
}

/** A power of a symmetric positive definite matrix. */
function power(a: Matrix, exponent: number): Matrix {
  const { values, vectors } = eigh(a);
  const scaled = vectors.data.map((x, i) => x * values[i % a.cols]! ** exponent);
  return multiply({ ...vectors, data: scaled }, vectors, { transposeB: true });
}

/** The best approximation of a rank. */
function truncated(a: Matrix, rank: number): Matrix {
  const { u, s, v } = svd(a);
  const scaled = columnsOf(u, rank);
  for (let i = 0; i < scaled.data.length; i++) scaled.data[i]! *= s[i % rank]!;
  return multiply(scaled, columnsOf(v, rank), { transposeB: true });
}

const shapes = fc.record({
  inputs: fc.integer({ min: 2, max: 10 }),
  outputs: fc.integer({ min: 2, max: 10 }),
  seed: seeds,
});

property(
  {
    id: "P31",
    statement:
      "the factorisation of a weight W by the second moment C of its inputs (CARE, SVD-LLM) is the projection onto the principal components of its outputs: C^(-1/2) [C^(1/2) W]_r = W V_r V_rᵀ, with V_r the top eigenvectors of Wᵀ C W",
    tolerance: "1e-8 relative, f64",
  },
  [shapes],
  ({ inputs, outputs, seed }) => {
    const random = new Random(seed);
    const rank = Math.max(1, Math.floor(Math.min(inputs, outputs) / 2));
    const moment = randomMoment(random, inputs);
    const weight = randomMatrix(random, inputs, outputs);
    const byInputs = multiply(
      power(moment, -0.5),
      truncated(multiply(power(moment, 0.5), weight), rank),
    );
    const outputMoment = multiply(weight, multiply(moment, weight), { transposeA: true });
    const top = columnsOf(eigh(outputMoment).vectors, rank);
    const byOutputs = multiply(multiply(weight, top), top, { transposeB: true });
    expect(relativeError(byInputs.data, byOutputs.data)).toBeLessThan(1e-8);
  },
);

property(
  {
    id: "P32",
    statement:
      "the best approximation of the scores K Qᵀ through keys of rank r (KQ-SVD) errs by the tail of the principal components of the keys in the metric Qᵀ Q",
    tolerance: "1e-10 relative, f64",
  },
  [shapes],
  ({ inputs: width, outputs: tokens, seed }) => {
    const random = new Random(seed);
    const rank = Math.max(1, Math.floor(Math.min(width, tokens) / 2));
    const keys = randomMatrix(random, tokens, width);
    const queries = randomMatrix(random, tokens + width, width);
    const scores = multiply(keys, queries, { transposeB: true });
    const missed = weightedSum([
      [1, scores],
      [-1, truncated(scores, rank)],
    ]);
    const root = power(multiply(queries, queries, { transposeA: true }), 0.5);
    const weighted = multiply(keys, root);
    const { values } = eigh(multiply(transpose(weighted), weighted));
    const tail = values.subarray(rank).reduce((sum, value) => sum + value, 0);
    expect(Math.abs(innerProduct(missed, missed) - tail)).toBeLessThan(
      EXACT * innerProduct(scores, scores),
    );
  },
);
