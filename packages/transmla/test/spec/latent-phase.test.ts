// What stands for the rotation of the keys that have lost it: a complex factor for each head and frequency.
import { fc } from "@fast-check/vitest";
import { tensor } from "@transmla/core";
import { matrix, multiply, transpose, type Matrix } from "@transmla/core/linalg";
import { expect } from "vitest";

import type { ComplexVector } from "../../src/convert/latent/algebra/complex-pairs.ts";
import { rowsOf } from "../../src/convert/latent/algebra/matrices.ts";
import { uploadAttention } from "../../src/convert/latent/source-layer.ts";
import { MeanPhaseFit } from "../../src/convert/latent/steps/mean-phase.ts";
import { meanRotation } from "../../src/convert/latent/steps/moments.ts";
import { chooseSlots, type Slots } from "../../src/convert/latent/steps/slots.ts";
import { groupedLayer, layerSizes, seeds, type GroupedLayer } from "./inputs/layers.ts";
import { referenceMoments, sourceAttention } from "./inputs/moments.ts";
import { Random } from "./inputs/random.ts";
import { backendProperty, property } from "./property.ts";
import {
  causalScores,
  groupedScores,
  kvHead,
  linear,
  rotate,
  softmax,
  splitHeads,
} from "./reference/attention.ts";

/** A layer and the part of its keys that keeps the rotation. */
interface Fitted {
  readonly layer: GroupedLayer;
  readonly slots: Slots;
}

/** For one head the weighted logit error `Σ p (e - Σ p e)²` under factors of its queries, and the power of its features. */
function logitError(
  { layer, slots }: Fitted,
  h: number,
  factors: ComplexVector,
): { readonly error: number; readonly power: number } {
  const { attention, rope, weights, x } = layer;
  const { heads, headDim: d, scale } = attention;
  const pairs = d / 2;
  const group = kvHead(h, attention);
  const q = splitHeads(linear(x, weights.q), heads)[h]!;
  const k = linear(x, weights.k);
  const apply = (a: Matrix, row: readonly number[]): number[] => [
    ...multiply(a, matrix(row.length, 1, Float64Array.from(row))).data,
  ];
  const own = rowsOf(slots.rebuild, group * d, (group + 1) * d);
  const slotKeys = k.map((row) => apply(slots.read, row));
  const rest = k.map((row, t) => {
    const held = apply(own, slotKeys[t]!);
    return row.slice(group * d, (group + 1) * d).map((value, i) => value - held[i]!);
  });
  const slotRope = { ...rope, frequencies: rope.frequencies.slice(0, slots.read.rows / 2) };
  const slotQueries = q.map((row) => apply(transpose(own), row));
  const original = groupedScores(x, weights, attention, rope)[h]!;
  const kept = causalScores(rotate(slotQueries, slotRope), rotate(slotKeys, slotRope), scale);
  let [error, power] = [0, 0];
  for (const [t, scores] of original.entries()) {
    const p = softmax(scores);
    const rows = scores.map((score, n) => {
      let change = (score - kept[t]![n]!) / scale;
      for (let l = 0; l < pairs; l++) {
        const [re, im] = [q[t]![l]!, q[t]![l + pairs]!];
        const [x, y] = [rest[n]![l]!, rest[n]![l + pairs]!];
        change -= factors.re[l]! * (re * x + im * y) + factors.im[l]! * (re * y - im * x);
        power += p[n]! * ((re * x + im * y) ** 2 + (re * y - im * x) ** 2);
      }
      return change;
    });
    const mean = rows.reduce((sum, change, n) => sum + p[n]! * change, 0);
    error += rows.reduce((sum, change, n) => sum + p[n]! * (change - mean) ** 2, 0);
  }
  return { error, power };
}

backendProperty(
  {
    id: "P26",
    statement:
      "the fitted factors that stand for the rotation of the keys in the latent leave a weighted logit error no larger than none do, and than the mean rotations do",
    tolerance: "the ridge: 1e-3 of the power of the features; f32",
    runs: 15,
  },
  [layerSizes().filter(({ headDim }) => headDim >= 4)],
  async (backend, size) => {
    const layer = groupedLayer(size);
    const source = sourceAttention(layer);
    const moments = referenceMoments(layer, [layer.x]);
    const slots = chooseSlots(moments, layer.attention, { ropeDim: 2, choice: "fast band" });
    using tensors = uploadAttention(backend, source, layer.x.length);
    using x = tensor(backend, layer.x.flat(), [layer.x.length, size.hidden]);
    const fit = new MeanPhaseFit(source, slots, 1);
    await fit.add(x, tensors, 0);
    const mu = fit.finish(moments);
    const pairs = size.headDim / 2;
    const none = { re: new Float64Array(pairs).fill(1), im: new Float64Array(pairs) };
    for (let h = 0; h < size.heads; h++) {
      const fitted = logitError({ layer, slots }, h, mu[h]!);
      for (const factors of [none, moments.meanRotation]) {
        const other = logitError({ layer, slots }, h, factors);
        expect(fitted.error).toBeLessThanOrEqual(other.error + 1e-3 * other.power);
      }
    }
  },
);

property(
  {
    id: "P26",
    statement:
      "where queries and keys do not depend on their distance Δ, the best constant in place of e^{iΔθ} is its mean, which leaves 1 - |mean|² of the energy of the products; for n distances that are equally frequent |mean| = |sin(nθ/2) / (n sin(θ/2))|",
    tolerance: "1e-10 of the energy, f64",
  },
  [fc.integer({ min: 1, max: 300 }), fc.double({ min: 1e-3, max: 3, noNaN: true }), seeds],
  (count, theta, seed) => {
    const random = new Random(seed);
    const products = random.gaussians(10).map((x) => x ** 2); // |q conj k|²
    const energy = products.reduce((sum, x) => sum + x, 0);
    /** What a constant leaves, over all pairs of products and distances. */
    const left = (re: number, im: number): number => {
      let squares = 0;
      for (let distance = 0; distance < count; distance++) {
        const angle = distance * theta;
        squares += (Math.cos(angle) - re) ** 2 + (Math.sin(angle) - im) ** 2;
      }
      return (energy * squares) / count;
    };
    const mean = meanRotation(new Float64Array(count).fill(1), [theta]);
    const [re, im] = [mean.re[0]!, mean.im[0]!];
    const modulus = Math.abs(Math.sin((count * theta) / 2) / (count * Math.sin(theta / 2)));
    expect(Math.abs(Math.hypot(re, im) - modulus)).toBeLessThan(1e-10);
    expect(Math.abs(left(re, im) - energy * (1 - modulus ** 2))).toBeLessThan(1e-10 * energy);
    for (const [x, y] of [[1, 0], [0, 0], random.gaussians(2) as [number, number]] as const) {
      expect(left(re, im)).toBeLessThanOrEqual(left(x, y) + 1e-10 * energy);
    }
  },
);
