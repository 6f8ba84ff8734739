// The factored conversion (TransMLA v1, arXiv 2502.07864): K = X W_K S and V = X W_V S as products of two factors.
import { fc } from "@fast-check/vitest";
import { fromRows, matrix, multiply, svd, type Matrix } from "@transmla/core/linalg";
import { expect } from "vitest";

import { factorProjection, type FactoredInit } from "../../src/convert/factored.ts";
import { asMatrix, type HostTensor } from "../../src/convert/host-tensor.ts";
import type { GroupedAttention } from "../../src/model/config/model-config.ts";
import { EXACT, relativeError, SINGLE } from "./errors.ts";
import { factoredLayer } from "./inputs/factored-layer.ts";
import { groupedLayer, layerSizes } from "./inputs/layers.ts";
import { converted, modelLogits, onBackend, sourceModel, sourceSizes } from "./inputs/models.ts";
import { Random } from "./inputs/random.ts";
import { backendProperty, counterexample, property } from "./property.ts";
import { factoredAttention, groupedAttention, kvHead } from "./reference/attention.ts";
import { decoderLogits } from "./reference/decoder.ts";

/** A projection `[gd, D]` with the rows of each kv head repeated for its query heads, `[Hd, D]`: (W S)ᵀ. */
function repeated(weight: HostTensor, c: GroupedAttention): Matrix {
  const [rows, cols] = weight.shape as [number, number];
  const row = (index: number): Float64Array =>
    weight.data.subarray(index * cols, (index + 1) * cols);
  expect(rows).toBe(c.kvHeads * c.headDim);
  return fromRows(
    Array.from({ length: c.heads * c.headDim }, (_, i) => {
      const head = Math.floor(i / c.headDim);
      return row(kvHead(head, c) * c.headDim + (i % c.headDim));
    }),
  );
}

property(
  {
    id: "P8",
    statement: "factored attention with identity initialisation equals grouped-query attention",
    tolerance: "1e-10 relative, f64",
  },
  [layerSizes(), fc.boolean()],
  (size, biased) => {
    const { x, weights, attention, rope } = groupedLayer(size, { biased });
    const result = factoredLayer(weights, attention, "identity");
    const y = factoredAttention(x, result.weights, result.attention, rope);
    expect(relativeError(y, groupedAttention(x, weights, attention, rope))).toBeLessThan(EXACT);
  },
);

property(
  {
    id: "P9",
    statement:
      "the factors of the SVD initialisation multiply to W_K S and W_V S, and so do those of the biases",
    tolerance: "1e-12 relative (Frobenius), f64",
  },
  [layerSizes(), fc.boolean()],
  (size, biased) => {
    const { weights, attention } = groupedLayer(size, { biased });
    for (const projection of [weights.k, weights.v]) {
      const { down, up } = factorProjection(projection, attention, "svd");
      const product = multiply(asMatrix(up), asMatrix(down.weight)); // [Hd, D]
      const expected = repeated(projection.weight, attention);
      expect(frobeniusError(product, expected)).toBeLessThan(1e-12);
      if (!projection.bias) continue;
      const column = (bias: HostTensor): HostTensor => ({
        shape: [bias.data.length, 1],
        data: bias.data,
      });
      const bias = multiply(asMatrix(up), asMatrix(column(down.bias!))); // [Hd, 1]
      expect(frobeniusError(bias, repeated(column(projection.bias), attention))).toBeLessThan(
        1e-12,
      );
    }
  },
);

function frobeniusError(actual: Matrix, expected: Matrix): number {
  const norm = (data: Float64Array): number => Math.hypot(...data);
  return norm(actual.data.map((value, i) => value - expected.data[i]!)) / norm(expected.data);
}

property(
  {
    id: "P9",
    statement:
      "factored attention with SVD initialisation equals grouped-query attention, without RoPE and with RoPE behind the second factor",
    tolerance: "1e-10 relative, f64",
  },
  [layerSizes(), fc.boolean()],
  (size, biased) => {
    const { x, weights, attention, rope } = groupedLayer(size, { biased });
    const result = factoredLayer(weights, attention, "svd");
    const still = { ...rope, frequencies: rope.frequencies.map(() => 0) };
    for (const rotation of [still, rope]) {
      const y = factoredAttention(x, result.weights, result.attention, rotation);
      expect(relativeError(y, groupedAttention(x, weights, attention, rotation))).toBeLessThan(
        EXACT,
      );
    }
  },
);

backendProperty(
  {
    id: "P9",
    statement: "a factored model, of either initialisation, gives the logits of its source",
    tolerance: "1e-4 relative, f32",
  },
  [sourceSizes, fc.constantFrom<FactoredInit>("svd", "identity")],
  async (backend, size, init) => {
    const source = sourceModel(size);
    const expected = decoderLogits(source.tokens, source.json, source.tensors);
    using model = onBackend(backend, source);
    using result = onBackend(backend, await converted(source, { method: "factored", init }));
    expect(relativeError(await modelLogits(model, [source.tokens]), expected)).toBeLessThan(SINGLE);
    expect(relativeError(await modelLogits(result, [source.tokens]), expected)).toBeLessThan(
      SINGLE,
    );
  },
);

property(
  {
    id: "P10",
    statement:
      "the SVD initialisation is balanced: W_aᵀ W_a = W_b W_bᵀ = Σ, with the singular values of W_K S, which are √rep times those of W_K",
    tolerance: "1e-10 relative, f64",
  },
  [layerSizes()],
  (size) => {
    const { weights, attention } = groupedLayer(size);
    const { down, up } = factorProjection(weights.k, attention, "svd");
    const ofRepeated = svd(repeated(weights.k.weight, attention)).s;
    const root = Math.sqrt(attention.heads / attention.kvHeads); // √rep
    const singular = svd(asMatrix(weights.k.weight)).s.map((value) => root * value);
    const rank = singular.length;
    expect(relativeError(singular, ofRepeated.slice(0, rank))).toBeLessThan(EXACT);

    const sigma = matrix(rank, rank);
    singular.forEach((value, k) => (sigma.data[k * rank + k] = value));
    const downGram = multiply(asMatrix(down.weight), asMatrix(down.weight), { transposeB: true });
    const upGram = multiply(asMatrix(up), asMatrix(up), { transposeA: true });
    expect(relativeError(downGram.data, sigma.data)).toBeLessThan(EXACT);
    expect(relativeError(upGram.data, sigma.data)).toBeLessThan(EXACT);
  },
);

property(
  {
    id: "P10",
    statement:
      "the SVD of each kv head, as in the published code, and the joint SVD have the same product",
    tolerance: "1e-10 relative, f64",
  },
  [layerSizes()],
  (size) => {
    const { weights, attention } = groupedLayer(size);
    const { headDim: d, kvHeads } = attention;
    const { down, up } = factorProjection(weights.k, attention, "svd");
    const joint = multiply(asMatrix(up), asMatrix(down.weight)); // [Hd, D]
    const perHead = matrix(joint.rows, joint.cols);
    for (let j = 0; j < kvHeads; j++) {
      const single = onlyHead(weights.k.weight, j, d);
      const { u, s, v } = svd(repeated(single, attention));
      const scaled = { ...u, data: u.data.map((value, i) => value * s[i % u.cols]!) }; // U Σ
      multiply(scaled, v, { transposeB: true }).data.forEach(
        (value, i) => (perHead.data[i] = perHead.data[i]! + value),
      );
    }
    expect(relativeError(perHead.data, joint.data)).toBeLessThan(EXACT);
  },
);

/** The rows of kv head j; the others are zero. */
function onlyHead({ shape, data }: HostTensor, j: number, d: number): HostTensor {
  const headOf = (index: number): number => Math.floor(index / shape[1]! / d);
  return { shape, data: data.map((value, i) => (headOf(i) === j ? value : 0)) };
}

/** dim(U_h + U_h'): the numerical rank of the value maps of two heads, `[d, D]` each. */
function span(valueMap: Matrix, d: number, h: number, other: number): number {
  const rows = [h, other].flatMap((head) => {
    return Array.from({ length: d }, (_, i) => {
      const row = head * d + i;
      return valueMap.data.subarray(row * valueMap.cols, (row + 1) * valueMap.cols);
    });
  });
  const { s } = svd(fromRows(rows));
  return s.filter((value) => value > 1e-9 * s[0]!).length;
}

property(
  {
    id: "P11",
    statement:
      "with a random second factor every pair of heads reads a value space of min(2d, gd) > d dimensions: no grouped-query attention of g heads has that",
    tolerance: "numerical rank above 1e-9",
    runs: 20,
  },
  [layerSizes({ minKvHeads: 2, minRepeats: 2 })],
  (size) => {
    const { weights, attention } = groupedLayer(size);
    const { heads, kvHeads, headDim: d } = attention;
    const { down } = factorProjection(weights.v, attention, "svd");
    const up = new Random(size.seed + 1).linear(heads * d, kvHeads * d).weight;
    const valueMap = multiply(asMatrix(up), asMatrix(down.weight)); // [Hd, D]
    const expected = Math.min(2 * d, kvHeads * d);
    expect(expected).toBeGreaterThan(d);
    for (let h = 0; h < heads; h++) {
      for (let other = 0; other < h; other++) expect(span(valueMap, d, h, other)).toBe(expected);
    }
  },
);

counterexample(
  {
    id: "P11",
    statement:
      "in grouped-query attention with g < H the heads of a group read one value space of d dimensions",
    tolerance: "numerical rank above 1e-9",
    runs: 20,
  },
  [layerSizes({ minKvHeads: 2, minRepeats: 2 })],
  (size) => {
    const { weights, attention } = groupedLayer(size);
    const { down, up } = factorProjection(weights.v, attention, "svd");
    const valueMap = multiply(asMatrix(up), asMatrix(down.weight)); // [Hd, D]: W_V S, factored and not yet trained
    expect(span(valueMap, attention.headDim, 0, 1)).toBe(attention.headDim);
  },
);
