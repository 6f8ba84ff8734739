// What every fused operation means, in plain loops over f64, written apart from core's compositions.

import type { AttentionAttributes, GateFunction } from "../backend.ts";
import {
  matmul,
  rowsOf,
  unaryFunction,
  unaryScale,
  type Expected,
  type ExpectedProduct,
} from "./reference.ts";
import { indices, type Elements } from "./samples.ts";

/** Softmax of one row, in the form that cannot overflow. */
function softmaxRow(row: readonly number[]): number[] {
  const largest = Math.max(...row);
  const powers = row.map((x) => Math.exp(x - largest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

/**
 * Softmax over the last axis. The error of an exponent is relative to its distance from the maximum.
 *
 * @param x - `[..., n]`.
 */
export function softmax(x: Elements): Expected {
  const rows = rowsOf(x);
  const values = rows.flatMap(softmaxRow);
  const scale = rows.flatMap((row) => {
    const largest = Math.max(...row);
    return softmaxRow(row).map((p, i) => p * (1 + largest - row[i]!));
  });
  return { shape: x.shape, values, terms: x.shape.at(-1)!, scale };
}

/**
 * `x / sqrt(mean(x²) + eps) * (weight + offset)` over the last axis.
 *
 * @param x - `[..., n]`.
 * @param weight - `[n]`.
 * @param attributes - `eps` and `offset`.
 */
export function rmsNorm(
  x: Elements,
  weight: Elements,
  { eps, offset }: { readonly eps: number; readonly offset: number },
): Expected {
  const normalised = rowsOf(x).map((row) => {
    const squares = row.reduce((sum, value) => sum + value * value, 0);
    return row.map((value) => value / Math.sqrt(squares / row.length + eps));
  });
  const weights = Array.from(weight.values);
  return {
    shape: x.shape,
    values: normalised.flatMap((row) => row.map((value, i) => value * (weights[i]! + offset))),
    terms: weights.length,
    scale: normalised.flatMap((row) => {
      return row.map((value, i) => Math.abs(value) * (Math.abs(weights[i]!) + Math.abs(offset)));
    }),
  };
}

/**
 * Rotates pairs of components: `(a, b)` becomes `(a cos - b sin, b cos + a sin)`.
 *
 * @param x - `[T, H, D]`.
 * @param cos - `[T, D/2]`.
 * @param sin - `[T, D/2]`.
 * @param interleaved - Whether pair i is (2i, 2i + 1), else (i, i + D/2).
 */
export function rope(x: Elements, cos: Elements, sin: Elements, interleaved: boolean): Expected {
  const [T, H, D] = x.shape as [number, number, number];
  const half = D / 2;
  const values = new Float64Array(T * H * D);
  const scale = new Float64Array(T * H * D);
  for (const [t, h, i] of indices([T, H, half]) as [number, number, number][]) {
    const first = (t * H + h) * D + (interleaved ? 2 * i : i);
    const second = first + (interleaved ? 1 : half);
    const [a, b] = [x.values[first]!, x.values[second]!];
    const [c, s] = [cos.values[t * half + i]!, sin.values[t * half + i]!];
    values[first] = a * c - b * s;
    values[second] = b * c + a * s;
    scale[first] = Math.abs(a * c) + Math.abs(b * s);
    scale[second] = Math.abs(b * c) + Math.abs(a * s);
  }
  return { shape: x.shape, values, terms: 2, scale };
}

/**
 * Whether the query that is number `query` of `T` sees the key at position `key` of `S`.
 *
 * @param query - From 0 to T - 1; queries are the last T of S positions.
 * @param key - From 0 to S - 1.
 * @param sizes - T and S.
 * @param attributes - The mask.
 */
function sees(
  query: number,
  key: number,
  { T, S }: { readonly T: number; readonly S: number },
  { causal, window }: AttentionAttributes,
): boolean {
  const position = S - T + query;
  const future = causal && key > position;
  const past = window !== undefined && key < position - window + 1;
  return !future && !past;
}

/**
 * Attention of one query head at a time: scores, soft cap, mask, softmax, weighted sum of values.
 *
 * @param q - `[T, H, Dk]`.
 * @param k - `[S, G, Dk]`; query head h uses key head `floor(h / (H/G))`.
 * @param v - `[S, G, Dv]`.
 * @param attributes - Scale, mask and cap.
 */
export function attention(
  q: Elements,
  k: Elements,
  v: Elements,
  attributes: AttentionAttributes,
): Expected {
  const [T, H, Dk] = q.shape as [number, number, number];
  const [S, G, Dv] = v.shape as [number, number, number];
  const { cap } = attributes;
  const values: number[] = [];
  const scale: number[] = [];
  for (const [t, h] of indices([T, H]) as [number, number][]) {
    const group = Math.floor(h / (H / G));
    let largest = 0; // how large the terms of a score are: its rounding error multiplies the probabilities
    const seen: { readonly key: number; readonly score: number }[] = [];
    for (let key = 0; key < S; key++) {
      if (!sees(t, key, { T, S }, attributes)) continue;
      let score = 0;
      let magnitude = 0;
      for (let i = 0; i < Dk; i++) {
        const product = q.values[(t * H + h) * Dk + i]! * k.values[(key * G + group) * Dk + i]!;
        score += product * attributes.scale;
        magnitude += Math.abs(product * attributes.scale);
      }
      seen.push({ key, score: cap === undefined ? score : cap * Math.tanh(score / cap) });
      largest = Math.max(largest, magnitude, cap ?? 0);
    }
    const probabilities = softmaxRow(seen.map(({ score }) => score));
    for (let column = 0; column < Dv; column++) {
      const terms = seen.map(({ key }, i) => {
        return probabilities[i]! * v.values[(key * G + group) * Dv + column]!;
      });
      values.push(terms.reduce((sum, term) => sum + term, 0));
      scale.push((1 + largest) * terms.reduce((sum, term) => sum + Math.abs(term), 0));
    }
  }
  return { shape: [T, H, Dv], values, terms: Dk + S, scale };
}

/**
 * `fn(gate) * up`.
 *
 * @param gate - Any shape.
 * @param up - The same shape.
 * @param fn - The function.
 */
export function gatedActivation(gate: Elements, up: Elements, fn: GateFunction): Expected {
  const inputs = Array.from(gate.values);
  const factor = Array.from(up.values);
  return {
    shape: gate.shape,
    values: inputs.map((x, i) => unaryFunction(fn, x) * factor[i]!),
    terms: 4,
    scale: inputs.map((x, i) => unaryScale(fn, x, Math.abs(x)) * Math.abs(factor[i]!)),
  };
}

/**
 * Row i of x times the transposed matrix of expert `ids[i]`.
 *
 * @param x - `[..., k, n]` or `[..., 1, n]`.
 * @param weights - `[E, m, n]`.
 * @param ids - `[..., k]`.
 */
export function expertMatmul(x: Elements, weights: Elements, ids: Elements): ExpectedProduct {
  const [, m, n] = weights.shape as [number, number, number];
  const k = ids.shape.at(-1)!;
  const shared = x.shape.at(-2) === 1;
  const products = Array.from(ids.values, (expert, i) => {
    const row = shared ? Math.floor(i / k) : i;
    const values = Array.from({ length: n }, (_, j) => x.values[row * n + j]!);
    const matrix = Array.from({ length: n * m }, (_, j) => {
      return weights.values[(expert * m + (j % m)) * n + Math.floor(j / m)]!;
    });
    return matmul({ shape: [1, n], values }, { shape: [n, m], values: matrix });
  });
  return {
    shape: [...ids.shape, m],
    values: products.flatMap(({ values }) => Array.from(values)),
    terms: n,
    scale: products.flatMap(({ scale }) => Array.from(scale)),
    spread: products.flatMap(({ spread }) => Array.from(spread)),
  };
}
