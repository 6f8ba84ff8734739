// The steps of the merged conversion: pair order, biases, one wide key head, the scale of the scores.
import { fc } from "@fast-check/vitest";
import { expect } from "vitest";

import type { HostTensor } from "../../src/convert/host-tensor.ts";
import type { Linear } from "../../src/model/weights.ts";
import { BROKEN, EXACT, relativeError } from "./errors.ts";
import { groupedLayer, layerSizes, seeds } from "./inputs/layers.ts";
import { deepseekLayer, multiQueryLayer, rows } from "./inputs/merged-layer.ts";
import { Random } from "./inputs/random.ts";
import { counterexample, property } from "./property.ts";
import {
  average,
  causalScores,
  groupedAttention,
  groupedScores,
  kvHead,
  type Rows,
} from "./reference/attention.ts";
import { deepseekScores } from "./reference/deepseek.ts";
import { rotationOf, yarnMscale, type RopeParameters } from "./reference/rope.ts";

/** Half-split to interleaved: inside every head, row 2l is row l, and row 2l + 1 is row l + d/2. */
function interleaved(tensor: HostTensor, headDim: number): HostTensor {
  const order = Array.from({ length: tensor.shape[0]! }, (_, row) => {
    const i = row % headDim;
    return row - i + Math.floor(i / 2) + (i % 2) * (headDim / 2);
  });
  if (tensor.shape.length === 2) return rows(tensor, order);
  return { shape: tensor.shape, data: Float64Array.from(order, (row) => tensor.data[row]!) };
}

const interleavedLinear = (
  { weight, bias }: Linear<HostTensor>,
  headDim: number,
): Linear<HostTensor> => ({
  weight: interleaved(weight, headDim),
  bias: bias && interleaved(bias, headDim),
});

property(
  {
    id: "P12",
    statement:
      "interleaving the pairs of W_Q, W_K, their biases and the q and k norms, with RoPE on neighbours, leaves the attention logits unchanged",
    tolerance: "1e-10 relative, f64",
  },
  [layerSizes(), fc.boolean()],
  (size, normed) => {
    const { x, weights, attention, rope } = groupedLayer(size, { biased: true });
    const d = attention.headDim;
    const random = new Random(size.seed + 1);
    const [query, key] = [random.norm(d), random.norm(d)];
    const norms = normed && { headNorms: { query: query.data, key: key.data } };
    const permutedNorms = normed && {
      headNorms: { query: interleaved(query, d).data, key: interleaved(key, d).data },
    };
    const permuted = {
      ...weights,
      q: interleavedLinear(weights.q, d),
      k: interleavedLinear(weights.k, d),
    };

    const before = groupedScores(x, weights, attention, rope, { ...norms });
    const after = groupedScores(
      x,
      permuted,
      attention,
      { ...rope, interleaved: true },
      { ...permutedNorms },
    );
    expect(relativeError(after, before)).toBeLessThan(EXACT);
  },
);

counterexample(
  {
    id: "P12",
    statement: "interleaving the pairs of W_Q only changes the attention logits",
    tolerance: "> 1e-3 relative",
  },
  [layerSizes().filter(({ headDim }) => headDim >= 4)], // a single pair has one order
  (size) => {
    const { x, weights, attention, rope } = groupedLayer(size);
    const permuted = { ...weights, q: interleavedLinear(weights.q, attention.headDim) };
    const before = groupedScores(x, weights, attention, rope);
    const after = groupedScores(x, permuted, attention, { ...rope, interleaved: true });
    expect(relativeError(after, before)).toBeGreaterThan(BROKEN);
  },
);

property(
  {
    id: "P12",
    statement: "the rope rows of a merged layer are those of W_K, interleaved",
    tolerance: "exact",
  },
  [layerSizes()],
  (size) => {
    const layer = groupedLayer(size);
    const { weights, attention } = layer;
    const keys = multiQueryLayer(layer).weights.k.weight;
    expect(keys).toEqual(interleaved(weights.k.weight, attention.headDim));
  },
);

/** Attention of one head whose scores are capped: `cap tanh(score / cap)`. */
function softCapped(scores: Rows, cap: number): Rows {
  return scores.map((row) => row.map((score) => cap * Math.tanh(score / cap)));
}

/** Random queries, keys and values of one head, and the keys moved by one vector, about 3 in the logits. */
function shiftedKeys(seed: number): {
  readonly q: Rows;
  readonly k: Rows;
  readonly v: Rows;
  readonly moved: Rows;
} {
  const random = new Random(seed);
  const [q, k, v] = [random.rows(12, 8), random.rows(12, 8), random.rows(12, 8)];
  const shift = random.gaussians(8).map((value) => 3 * value);
  return { q, k, v, moved: k.map((key) => key.map((value, i) => value + shift[i]!)) };
}

property(
  {
    id: "P13",
    statement:
      "a vector that is added to all keys without RoPE of a head, as a key bias is, leaves the attention unchanged",
    tolerance: "1e-10 relative, f64",
  },
  [seeds],
  (seed) => {
    const { q, k, v, moved } = shiftedKeys(seed);
    const scale = 8 ** -0.5;
    const before = average(causalScores(q, k, scale), v);
    const after = average(causalScores(q, moved, scale), v);
    expect(relativeError(after, before)).toBeLessThan(EXACT);
  },
);

counterexample(
  {
    id: "P13",
    statement:
      "under a soft cap of the logits, a vector that is added to all keys of a head changes the attention",
    tolerance: "> 1e-3 relative",
  },
  [seeds],
  (seed) => {
    const { q, k, v, moved } = shiftedKeys(seed);
    const scale = 8 ** -0.5;
    const before = average(softCapped(causalScores(q, k, scale), 5), v);
    const after = average(softCapped(causalScores(q, moved, scale), 5), v);
    expect(relativeError(after, before)).toBeGreaterThan(BROKEN);
  },
);

property(
  {
    id: "P14",
    statement:
      "the value bias can move behind the attention: b_O + Σ_h b_V^kv(h) W_O^h in place of b_O and b_V",
    tolerance: "1e-10 relative, f64",
  },
  [layerSizes()],
  (size) => {
    const { x, weights, attention, rope } = groupedLayer(size, { biased: true });
    const { heads, headDim: d } = attention;
    const moved = new Float64Array(size.hidden);
    for (let row = 0; row < size.hidden; row++) {
      for (let i = 0; i < heads * d; i++) {
        const bias = weights.v.bias!.data[kvHead(Math.floor(i / d), attention) * d + (i % d)]!;
        moved[row]! += bias * weights.o.weight.data[row * heads * d + i]!;
      }
    }
    const result = {
      ...weights,
      v: { weight: weights.v.weight, bias: undefined },
      o: { weight: weights.o.weight, bias: { shape: [size.hidden], data: moved } },
    };
    const before = groupedAttention(x, weights, attention, rope);
    expect(relativeError(groupedAttention(x, result, attention, rope), before)).toBeLessThan(EXACT);
  },
);

property(
  {
    id: "P15",
    statement:
      "one key head of width gd, whose RoPE repeats each frequency g times, with every query in the slot of its kv head, equals grouped-query attention",
    tolerance: "1e-10 relative, f64; frequencies 1e-15",
  },
  [layerSizes()],
  (size) => {
    const layer = groupedLayer(size);
    const { x, weights, attention, rope } = layer;
    const merged = multiQueryLayer(layer);

    const repeatedFrequencies = Array.from(
      { length: attention.kvHeads },
      () => rope.frequencies,
    ).flat();
    expect(relativeError(merged.rope.frequencies, repeatedFrequencies)).toBeLessThan(1e-15);
    expect(merged.rope.interleaved).toBe(true);

    const before = groupedAttention(x, weights, attention, rope);
    const after = groupedAttention(x, merged.weights, merged.attention, merged.rope);
    expect(relativeError(after, before)).toBeLessThan(EXACT);
  },
);

const yarns: fc.Arbitrary<RopeParameters> = fc
  .record({
    factor: fc.integer({ min: 2, max: 64 }),
    mscale: fc.constantFrom(0.5, 0.7, 1),
    all: fc.constantFrom(0.5, 0.7, 1),
  })
  .map(({ factor, mscale, all }) => ({
    rope_type: "yarn",
    rope_theta: 10_000,
    factor,
    mscale,
    mscale_all_dim: all,
    original_max_position_embeddings: 32,
  }));

property(
  {
    id: "P34",
    statement:
      "queries times τ / mscale², with τ = √(d_n + d_r) σ₀ and the mscale² of YaRN, give the logits of a source of scale σ₀ = query_pre_attn_scalar^-1/2 in the wider head of DeepSeek",
    tolerance: "1e-10 relative, f64",
  },
  [layerSizes(), yarns, fc.integer({ min: 1, max: 256 })],
  (size, yarn, queryPreAttnScalar) => {
    const layer = groupedLayer({ ...size, kvHeads: 1 });
    const { x, weights } = layer;
    const d = size.headDim;
    const attention = { ...layer.attention, scale: queryPreAttnScalar ** -0.5 };
    const source = groupedScores(x, weights, attention, {
      ...rotationOf(yarn, d),
      interleaved: false,
    });

    const { tensors, json } = deepseekLayer(layer); // d_n = d_r = d
    const tau = Math.sqrt(d + d) * attention.scale;
    const factor = tau / yarnMscale(yarn.factor!, yarn.mscale_all_dim!) ** 2;
    const query = tensors.get("q_proj.weight")!;
    const scaledQuery = { shape: query.shape, data: query.data.map((value) => value * factor) };
    const { scores } = deepseekScores(x, new Map(tensors).set("q_proj.weight", scaledQuery), {
      ...json,
      rope_parameters: yarn,
    });
    expect(relativeError(scores, source)).toBeLessThan(EXACT);
  },
);

property(
  {
    id: "P34",
    statement:
      "the attention factor that the merged conversion writes gives the logits of a source of any scale and any rotation table scale, with queries as they are",
    tolerance: "1e-10 relative, f64",
  },
  [layerSizes(), fc.integer({ min: 1, max: 256 }), fc.constantFrom(1, 1.2)],
  (size, queryPreAttnScalar, tableScale) => {
    const layer = groupedLayer(size);
    const { x, weights } = layer;
    const attention = { ...layer.attention, scale: queryPreAttnScalar ** -0.5 };
    const rope = { ...layer.rope, tableScale };
    const { tensors, json } = deepseekLayer({ x, weights, attention, rope });
    const { scores } = deepseekScores(x, tensors, json);
    expect(relativeError(scores, groupedScores(x, weights, attention, rope))).toBeLessThan(EXACT);
  },
);
