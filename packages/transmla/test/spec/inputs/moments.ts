// The statistics of a calibrated conversion, in plain f64 loops over all tokens at once.
import { fromRows, type Matrix } from "@transmla/core/linalg";

import { asMatrix } from "../../../src/convert/host-tensor.ts";
import type { SourceAttention } from "../../../src/convert/latent/source-layer.ts";
import type { Moments } from "../../../src/convert/latent/steps/moments.ts";
import {
  average,
  groupedScores,
  kvHead,
  linear,
  softmax,
  splitHeads,
} from "../reference/attention.ts";
import type { Rows } from "../reference/attention.ts";
import type { GroupedLayer } from "./layers.ts";

/** A random layer as a conversion reads it. */
export function sourceAttention({ weights, attention, rope }: GroupedLayer): SourceAttention {
  return {
    attention,
    frequencies: rope.frequencies,
    q: asMatrix(weights.q.weight),
    k: asMatrix(weights.k.weight),
    v: asMatrix(weights.v.weight),
    o: asMatrix(weights.o.weight),
  };
}

/** `Σ_t weight_t a_tᵀ a_t / count`. */
function secondMoment(a: Rows, weights: readonly number[], count: number): Matrix {
  const width = a[0]!.length;
  const entry = (i: number, j: number): number =>
    a.reduce((sum, row, t) => sum + weights[t]! * row[i]! * row[j]!, 0) / count;
  return fromRows(
    Array.from({ length: width }, (_, i) => Array.from({ length: width }, (_, j) => entry(i, j))),
  );
}

/** The moments of a layer over sequences. */
export function referenceMoments(layer: GroupedLayer, sequences: readonly Rows[]): Moments {
  const { weights, attention, rope } = layer;
  const { heads, headDim } = attention;
  const tokens: Rows = [];
  const received: number[] = [];
  const queries: Rows[] = Array.from({ length: heads }, () => []);
  const rotation = rope.frequencies.map(() => [0, 0] as [number, number]);
  let variance = 0;
  for (const x of sequences) {
    const [k, v] = [linear(x, weights.k), linear(x, weights.v)];
    const first = tokens.length;
    tokens.push(...k.map((row, t) => [...row, ...v[t]!]));
    received.push(...x.map(() => 0));
    for (const [h, head] of splitHeads(linear(x, weights.q), heads).entries()) {
      queries[h]!.push(...head);
    }
    const valuesOfHead = splitHeads(v, attention.kvHeads);
    for (const [h, scores] of groupedScores(x, weights, attention, rope).entries()) {
      const outputs = throughOutput(layer, h, valuesOfHead[kvHead(h, attention)]!);
      const means = average(scores, outputs);
      for (const [t, row] of scores.entries()) {
        const p = softmax(row);
        variance -= squared(means[t]!);
        for (const [n, weight] of p.entries()) {
          received[first + n]! += weight;
          variance += weight * squared(outputs[n]!);
          rope.frequencies.forEach((frequency, l) => {
            rotation[l]![0] += weight * Math.cos((t - n) * frequency);
            rotation[l]![1] += weight * Math.sin((t - n) * frequency);
          });
        }
      }
    }
  }
  const count = tokens.length;
  const ones = tokens.map(() => 1);
  return {
    uniform: secondMoment(tokens, ones, count),
    received: secondMoment(tokens, received, count * heads),
    means: { uniform: weightedMean(tokens, ones), received: weightedMean(tokens, received) },
    queries: queries.map((rows) => secondMoment(rows, ones, count)),
    meanRotation: {
      re: Float64Array.from(rotation, ([re]) => re / (count * heads)),
      im: Float64Array.from(rotation, ([, im]) => im / (count * heads)),
    },
    outputVariance: variance / (count * heads),
  };

  function throughOutput(of: GroupedLayer, h: number, values: Rows): Rows {
    const { shape, data } = of.weights.o.weight;
    const [rows, cols] = shape as [number, number];
    const weight = {
      shape: [rows, headDim],
      data: Float64Array.from(
        { length: rows * headDim },
        (_, i) => data[Math.floor(i / headDim) * cols + h * headDim + (i % headDim)]!,
      ),
    };
    return linear(values, { weight, bias: undefined });
  }
}

const squared = (row: readonly number[]): number =>
  row.reduce((sum, value) => sum + value * value, 0);

/** The mean of rows under weights. */
function weightedMean(
  rows: readonly (readonly number[])[],
  weights: readonly number[],
): Float64Array {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return Float64Array.from(rows[0]!, (_, i) =>
    rows.reduce((sum, row, n) => sum + (weights[n]! / total) * row[i]!, 0),
  );
}
