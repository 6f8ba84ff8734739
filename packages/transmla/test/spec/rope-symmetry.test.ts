// Which changes of basis RoPE permits. Pair l of all g kv heads is one vector of g complex numbers; RoPE multiplies it
// by e^{i n θ_l}, and so commutes with every complex g x g matrix T_l.
import { fc } from "@fast-check/vitest";
import { scope, tensor, type Tensor } from "@transmla/core";
import { expect } from "vitest";

import type { HostTensor } from "../../src/convert/host-tensor.ts";
import { latentAttention, rotateHeads } from "../../src/model/attention.ts";
import { bindAttention } from "../../src/model/bind-weights.ts";
import type { Model } from "../../src/model/model.ts";
import { NamedTensors } from "../../src/model/named-tensors.ts";
import { SequenceTables } from "../../src/model/rope.ts";
import type { Linear } from "../../src/model/weights.ts";
import { BROKEN, EXACT, relativeError } from "./errors.ts";
import { invertible, type ComplexMatrix, type MatrixKind } from "./inputs/complex.ts";
import { factoredLayer } from "./inputs/factored-layer.ts";
import {
  fixtureSizes,
  groupedLayer,
  latentSizes,
  layerSizes,
  type GroupedLayer,
} from "./inputs/layers.ts";
import { deepseekLayer, multiQueryLayer } from "./inputs/merged-layer.ts";
import { latentModel, onBackend } from "./inputs/models.ts";
import { Random } from "./inputs/random.ts";
import { backendProperty, counterexample, property } from "./property.ts";
import { factoredAttention, groupedAttention, type Rows } from "./reference/attention.ts";
import { deepseekAttention } from "./reference/deepseek.ts";

/** Components (re, im) of pair l in head j, for interleaved pairs. */
type PairMap = (re: number[], im: number[], l: number) => { re: number[]; im: number[] };

/**
 * Applies a map to pair l of all g heads, in every block of g d rows: `W_K [gd, D]` has one block, `W_Q [H gd, D]` has
 * one for each query head.
 */
function mapPairs(
  { weight }: Linear<HostTensor>,
  g: number,
  d: number,
  map: PairMap,
): Linear<HostTensor> {
  const [rows, cols] = weight.shape as [number, number];
  const data = new Float64Array(weight.data);
  for (let block = 0; block < rows; block += g * d) {
    for (let l = 0; l < d / 2; l++) {
      const rowOf = (j: number): number => block + j * d + 2 * l;
      for (let col = 0; col < cols; col++) {
        const heads = Array.from({ length: g }, (_, j) => rowOf(j));
        const re = heads.map((row) => weight.data[row * cols + col]!);
        const im = heads.map((row) => weight.data[(row + 1) * cols + col]!);
        const mapped = map(re, im, l);
        heads.forEach((row, j) => {
          data[row * cols + col] = mapped.re[j]!;
          data[(row + 1) * cols + col] = mapped.im[j]!;
        });
      }
    }
  }
  return { weight: { shape: weight.shape, data }, bias: undefined };
}

const dot = (a: readonly number[], b: readonly number[]): number =>
  a.reduce((total, x, i) => total + x * b[i]!, 0);

/** Multiplies pair l by the complex matrix `matrices[l]`. */
const complexLinear = (matrices: readonly ComplexMatrix[]): PairMap => {
  return (re, im, l) => ({
    re: matrices[l]!.re.map((row, i) => dot(row, re) - dot(matrices[l]!.im[i]!, im)),
    im: matrices[l]!.re.map((row, i) => dot(row, im) + dot(matrices[l]!.im[i]!, re)),
  });
};

/** The layer as multi-query attention, with maps of the pairs of its queries and of its key. */
function reparameterised(layer: GroupedLayer, queryMap: PairMap, keyMap: PairMap): Rows {
  const { weights, attention, rope } = multiQueryLayer(layer);
  const { kvHeads: g, headDim: d } = layer.attention;
  const mapped = {
    ...weights,
    q: mapPairs(weights.q, g, d, queryMap),
    k: mapPairs(weights.k, g, d, keyMap),
  };
  return groupedAttention(layer.x, mapped, attention, rope);
}

/** The original. */
const original = ({ x, weights, attention, rope }: GroupedLayer): Rows =>
  groupedAttention(x, weights, attention, rope);

const kinds = fc.constantFrom<MatrixKind>(
  "any",
  "real",
  "unitary",
  "orthogonal",
  "phases",
  "permutation",
);

/** A matrix of a kind for each frequency. */
function matrices({ attention }: GroupedLayer, seed: number, kind: MatrixKind) {
  const random = new Random(seed + 1);
  return Array.from({ length: attention.headDim / 2 }, () =>
    invertible(random, attention.kvHeads, kind),
  );
}

property(
  {
    id: "P16",
    statement:
      "keys T_l z_l and queries T_l^-H q_l give the original attention for every invertible complex T_l: any, real, unitary, orthogonal, phases, permutations of heads",
    tolerance: "1e-10 relative times the condition of T_l, f64",
  },
  [layerSizes(), kinds],
  (size, kind) => {
    const layer = groupedLayer(size);
    const T = matrices(layer, size.seed, kind);
    const y = reparameterised(
      layer,
      complexLinear(T.map(({ inverseAdjoint }) => inverseAdjoint)),
      complexLinear(T.map(({ matrix }) => matrix)),
    );
    const condition = Math.max(...T.map((t) => t.condition));
    expect(relativeError(y, original(layer))).toBeLessThan(EXACT * condition);
  },
);

counterexample(
  {
    id: "P16",
    statement:
      "T_l on keys and queries alike, not inversely, changes the attention unless T_l is unitary",
    tolerance: "> 1e-3 relative",
  },
  [fixtureSizes],
  (size) => {
    const layer = groupedLayer(size);
    const map = complexLinear(matrices(layer, size.seed, "any").map(({ matrix }) => matrix));
    expect(relativeError(reparameterised(layer, map, map), original(layer))).toBeGreaterThan(
      BROKEN,
    );
  },
);

counterexample(
  {
    id: "P17",
    statement:
      "a T_l that is real but not complex-linear changes the attention: different orthogonal matrices for real and imaginary parts",
    tolerance: "> 1e-3 relative",
  },
  [fixtureSizes],
  (size) => {
    const layer = groupedLayer(size);
    const [A, B] = [
      matrices(layer, size.seed, "orthogonal"),
      matrices(layer, size.seed + 1, "orthogonal"),
    ];
    const map: PairMap = (re, im, l) => ({
      re: A[l]!.matrix.re.map((row) => dot(row, re)),
      im: B[l]!.matrix.re.map((row) => dot(row, im)),
    });
    // Orthogonal on the whole: it is its own inverse adjoint, and without RoPE nothing would change.
    expect(relativeError(reparameterised(layer, map, map), original(layer))).toBeGreaterThan(
      BROKEN,
    );
  },
);

const shifts = fc.integer({ min: 1, max: 1000 });

property(
  {
    id: "P19",
    statement:
      "attention depends on distances only: moving all positions by a constant changes nothing, for grouped, factored and merged attention and for latent attention with any split into parts with and without RoPE",
    tolerance: "1e-10 relative, f64",
    runs: 20,
  },
  [layerSizes(), latentSizes, shifts],
  (size, latentSize, start) => {
    const layer = groupedLayer(size);
    const { x, weights, attention, rope } = layer;
    const grouped = (start: number): Rows =>
      groupedAttention(x, weights, attention, rope, { start });
    expect(relativeError(grouped(start), grouped(0))).toBeLessThan(EXACT);

    const factors = factoredLayer(weights, attention, "svd");
    const factored = (start: number): Rows =>
      factoredAttention(x, factors.weights, factors.attention, rope, start);
    expect(relativeError(factored(start), factored(0))).toBeLessThan(EXACT);

    const { tensors, json } = deepseekLayer(layer);
    const merged = (start: number): Rows => deepseekAttention(x, tensors, json, { start });
    expect(relativeError(merged(start), merged(0))).toBeLessThan(EXACT);

    const model = latentModel(latentSize);
    const rows = new Random(latentSize.seed).rows(latentSize.tokens, latentSize.hidden);
    const latent = (start: number): Rows => {
      return deepseekAttention(
        rows,
        model.tensors,
        model.json,
        { start },
        "model.layers.0.self_attn.",
      );
    };
    expect(relativeError(latent(start), latent(0))).toBeLessThan(EXACT);
  },
);

/** The attention of the first layer of a latent model, for tokens at positions `start`, `start + 1` ... */
async function firstLayer(model: Model, x: Rows, start: number): Promise<Float32Array> {
  const { config, backend, tensors } = model;
  const weights = bindAttention(new NamedTensors(tensors), config, 0);
  if (weights.kind !== "latent" || config.attention.kind !== "latent")
    throw new TypeError("the model is not latent");
  const { attention } = config;
  using cache = model.createCache(x.length);
  using y = scope(() => {
    const rope = config.ropes[0]!;
    using tables = new SequenceTables(backend, rope, start + x.length);
    const rotate = (heads: Tensor): Tensor =>
      rotateHeads(heads, tables.range(start, start + x.length), rope.interleaved);
    const input = tensor(backend, x.flat(), [x.length, config.hiddenSize]);
    return latentAttention(input, weights, attention, {
      rotate,
      rotateAll: rotate,
      tables: () => undefined,
      layer: 0,
      position: 0,
      norm: (heads) => heads,
      cache: cache.layers[0]!,
      window: undefined,
      cap: undefined,
      latentForm: undefined,
    });
  });
  return await y.read();
}

backendProperty(
  {
    id: "P19",
    statement: "the latent attention of the library depends on distances only",
    tolerance: "1e-3 relative, f32",
  },
  [latentSizes, shifts],
  async (backend, size, start) => {
    const x = new Random(size.seed).rows(size.tokens, size.hidden);
    using model = onBackend(backend, latentModel(size));
    const error = relativeError(await firstLayer(model, x, start), await firstLayer(model, x, 0));
    expect(error).toBeLessThan(1e-3);
  },
);
