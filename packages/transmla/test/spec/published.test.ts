// The steps of the published algorithm: RoRoPE, FreqFold, RoPE in part, balanced components of keys and values.
import { fc } from "@fast-check/vitest";
import { eigh, multiply, transpose, type Matrix } from "@transmla/core/linalg";
import { expect } from "vitest";

import { fromMatrix } from "../../src/convert/host-tensor.ts";
import { unitPhases } from "../../src/convert/latent/algebra/complex-pairs.ts";
import { stackRows, weightedSum } from "../../src/convert/latent/algebra/matrices.ts";
import { assembleLatent } from "../../src/convert/latent/latent-layer.ts";
import {
  balancedLatent,
  separateLatent,
} from "../../src/convert/latent/published/balanced-latent.ts";
import { rotateKeys, type RotatedKeys } from "../../src/convert/latent/published/rotated-keys.ts";
import { BROKEN, EXACT, relativeError } from "./errors.ts";
import {
  groupedLayer,
  layerSizes,
  seeds,
  type GroupedLayer,
  type LayerSize,
} from "./inputs/layers.ts";
import { referenceMoments, sourceAttention } from "./inputs/moments.ts";
import { Random } from "./inputs/random.ts";
import { counterexample, property } from "./property.ts";
import {
  causalScores,
  groupedScores,
  kvHead,
  linear,
  rotate,
  splitHeads,
  type Rows,
} from "./reference/attention.ts";

/** E[yᵀy] of keys and values of a random layer. */
function layerAndMoment(size: LayerSize): {
  readonly layer: GroupedLayer;
  readonly uniform: Matrix;
} {
  const layer = groupedLayer(size);
  return { layer, uniform: referenceMoments(layer, [layer.x]).uniform };
}

const trace = ({ rows, data }: Matrix): number => {
  let sum = 0;
  for (let i = 0; i < rows; i++) sum += data[i * (rows + 1)]!;
  return sum;
};

/** The columns `start` to `end - 1` of some rows. */
function block({ cols, data }: Matrix, start: number, end: number): Matrix {
  const rows = Array.from({ length: end - start }, (_, i) =>
    data.slice((start + i) * cols + start, (start + i) * cols + end),
  );
  return stackRows(rows.map((row) => ({ rows: 1, cols: row.length, data: row })));
}

const keysOf = (uniform: Matrix): Matrix => block(uniform, 0, uniform.rows / 2);
const valuesOf = (uniform: Matrix): Matrix => block(uniform, uniform.rows / 2, uniform.rows);

/** `a C aᵀ`. */
const seenThrough = (a: Matrix, covariance: Matrix): Matrix =>
  multiply(multiply(a, covariance), transpose(a));

/** Layers whose frequencies can be folded, and a width of the rotated key. */
const foldable = fc
  .record({
    kvHeads: fc.integer({ min: 1, max: 3 }),
    repeats: fc.integer({ min: 1, max: 2 }),
    pairs: fc.constantFrom(4, 8),
    collapse: fc.constantFrom(1, 2),
    tokens: fc.integer({ min: 5, max: 30 }),
    seed: seeds,
  })
  .map(({ kvHeads, repeats, pairs, collapse, tokens, seed }) => {
    const headDim = 2 * pairs;
    const [heads, hidden] = [kvHeads * repeats, 2 * kvHeads * headDim];
    return { size: { hidden, heads, kvHeads, headDim, tokens, seed }, ropeDim: headDim / collapse };
  });

property(
  {
    id: "P21",
    statement:
      "RoRoPE and FreqFold are orthogonal: the energies of the components with and without RoPE add up to that of the keys",
    tolerance: "1e-10 relative, f64",
    runs: 20,
  },
  [foldable],
  ({ size, ropeDim }) => {
    const { layer, uniform } = layerAndMoment(size);
    const keys = keysOf(uniform);
    for (const fold of [2, 4]) {
      const { slots, rest } = rotateKeys(uniform, layer.attention, ropeDim, fold);
      const parts = [slots.read, rest].map((a) => trace(seenThrough(a, keys)));
      expect(relativeError([parts[0]! + parts[1]!], [trace(keys)])).toBeLessThan(EXACT);
    }
  },
);

property(
  {
    id: "P22",
    statement:
      "twice the fold, of nested groups of frequencies and as many slots, captures at least the key energy on the calibration tokens",
    tolerance: "1e-9 of the total, f64",
    runs: 20,
  },
  [foldable],
  ({ size, ropeDim }) => {
    const { layer, uniform } = layerAndMoment(size);
    const keys = keysOf(uniform);
    const total = trace(keys);
    let before = 0;
    for (let fold = size.headDim / ropeDim; fold <= size.headDim / 2; fold *= 2) {
      const { slots } = rotateKeys(uniform, layer.attention, ropeDim, fold);
      const captured = trace(seenThrough(slots.read, keys));
      expect(captured).toBeGreaterThanOrEqual(before - 1e-9 * total);
      before = captured;
    }
  },
);

/** The logits of a layer whose keys have RoPE in the slots only. */
function partialScores(layer: GroupedLayer, { slots, rest }: RotatedKeys): Rows[] {
  const { attention, rope, x } = layer;
  const source = sourceAttention(layer);
  const phases = Array.from({ length: attention.heads }, () => unitPhases(attention.headDim / 2));
  const partial = assembleLatent(source, slots, phases, separateLatent(rest));
  const apply = (weight: Matrix, to: Rows = x): Rows =>
    linear(to, { weight: fromMatrix(weight), bias: undefined });
  const frequencies = slots.pairs.map((pair) => rope.frequencies[pair]!);
  const turn = (rows: Rows): Rows => rotate(rows, { ...rope, frequencies });
  const [nope, rotated] = [partial.queryNope, partial.queryRope].map((weight) =>
    splitHeads(apply(weight), attention.heads),
  );
  const keys = splitHeads(apply(partial.keyUp, apply(partial.latent)), attention.kvHeads);
  const key = turn(apply(partial.keyRope));
  return nope!.map((queries, h) => {
    const own = causalScores(queries, keys[kvHead(h, attention)]!, attention.scale);
    const shared = causalScores(turn(rotated![h]!), key, attention.scale);
    return own.map((row, t) => row.map((score, n) => score + shared[t]![n]!));
  });
}

/** The root mean square difference of logits. */
function distance(a: readonly Rows[], b: readonly Rows[]): number {
  const differences = a.flat(2).map((value, i) => (value - b.flat(2)[i]!) ** 2);
  return Math.sqrt(differences.reduce((sum, square) => sum + square, 0) / differences.length);
}

counterexample(
  {
    id: "P22",
    statement:
      "more captured energy is not a smaller error of the logits: a fold of 4 has more of both",
    tolerance: "more than 1 %",
  },
  [],
  () => {
    const size = { hidden: 48, heads: 4, kvHeads: 2, headDim: 16, tokens: 30, seed: 1 };
    const { layer, uniform } = layerAndMoment(size);
    const original = groupedScores(layer.x, layer.weights, layer.attention, layer.rope);
    const [captured, error] = [[], []] as [number[], number[]];
    for (const fold of [1, 4]) {
      const keys = rotateKeys(uniform, layer.attention, size.headDim, fold);
      captured.push(trace(seenThrough(keys.slots.read, keysOf(uniform))));
      error.push(distance(partialScores(layer, keys), original));
    }
    expect(captured[1]! / captured[0]!).toBeGreaterThan(1.01);
    expect(error[1]! / error[0]!).toBeGreaterThan(1.01);
  },
);

const frequency = fc.double({ min: 0, max: 1, noNaN: true });

property(
  {
    id: "P23",
    statement:
      "a slot that rotates at f in place of θ changes its logit at a distance Δ by at most |q| |k| min(2, |Δ| |θ - f|)",
    tolerance: "1e-12 |q| |k|, f64",
    runs: 200,
  },
  [seeds, fc.nat(4096), frequency, frequency],
  (seed, distance, theta, moved) => {
    const [q, k] = new Random(seed).rows(2, 2) as [number[], number[]];
    const norms = Math.hypot(...q) * Math.hypot(...k);
    const logit = (at: number): number => {
      const rope = { frequencies: [at], interleaved: false, tableScale: 1 };
      const [query] = rotate([q], rope, distance);
      return query![0]! * k[0]! + query![1]! * k[1]!;
    };
    const bound = norms * Math.min(2, distance * Math.abs(theta - moved));
    expect(Math.abs(logit(theta) - logit(moved))).toBeLessThanOrEqual(bound + 1e-12 * norms);
  },
);

property(
  {
    id: "P25",
    statement:
      "without rotation, all frequencies being zero, RoPE in part is exact for any choice of slots",
    tolerance: "1e-10 relative, f64",
    runs: 20,
  },
  [foldable, fc.constantFrom(2, 4)],
  ({ size, ropeDim }, fold) => {
    const { layer, uniform } = layerAndMoment(size);
    const still = {
      ...layer,
      rope: { ...layer.rope, frequencies: layer.rope.frequencies.map(() => 0) },
    };
    const original = groupedScores(layer.x, layer.weights, layer.attention, still.rope);
    const found = partialScores(still, rotateKeys(uniform, layer.attention, ropeDim, fold));
    expect(relativeError(found, original)).toBeLessThan(EXACT);
  },
);

counterexample(
  {
    id: "P25",
    statement: "with the frequencies of RoPE, the components that lose them change the logits",
    tolerance: "more than 1e-3 relative",
    runs: 20,
  },
  [foldable.filter(({ size }) => size.kvHeads > 1)],
  ({ size, ropeDim }) => {
    const { layer, uniform } = layerAndMoment(size);
    const original = groupedScores(layer.x, layer.weights, layer.attention, layer.rope);
    const found = partialScores(layer, rotateKeys(uniform, layer.attention, ropeDim, 2));
    expect(relativeError(found, original)).toBeGreaterThan(BROKEN);
  },
);

const ratios = fc.constantFrom(1e-6, 1, 1e6);

property(
  {
    id: "P29",
    statement:
      "at full rank the balance of keys and values leaves the function as it is: the latent holds all components without RoPE and the values",
    tolerance: "1e-10 relative, f64",
    runs: 20,
  },
  [foldable, fc.constantFrom(0.01, 1, 100)],
  ({ size, ropeDim }, alpha) => {
    const { layer, uniform } = layerAndMoment(size);
    const { rest } = rotateKeys(uniform, layer.attention, ropeDim, 2);
    const product = (latent: ReturnType<typeof separateLatent>): Matrix =>
      multiply(stackRows([latent.decodeKeys, latent.decodeValues]), latent.encode);
    const all = rest.rows + rest.cols;
    const found = product(balancedLatent(uniform, rest, alpha, all));
    expect(relativeError(found.data, product(separateLatent(rest)).data)).toBeLessThan(EXACT);
  },
);

/** What rank r loses of keys and values: `tr((a - b) C (a - b)ᵀ)`, less the part of the keys in slots. */
function losses(uniform: Matrix, rest: Matrix, alpha: number, rank: number): [number, number] {
  const { encode, decodeKeys, decodeValues } = balancedLatent(uniform, rest, alpha, rank);
  const full = separateLatent(rest);
  const loss = (decode: Matrix, exact: Matrix): number => {
    const error = weightedSum([
      [1, multiply(exact, full.encode)],
      [-1, multiply(decode, encode)],
    ]);
    return trace(seenThrough(error, uniform));
  };
  return [loss(decodeKeys, full.decodeKeys), loss(decodeValues, full.decodeValues)];
}

/** The energy that rank r of principal components leaves. */
const tail = (covariance: Matrix, rank: number): number =>
  eigh(covariance)
    .values.slice(rank)
    .reduce((sum, value) => sum + value, 0);

const lowRank = layerSizes({ minKvHeads: 2 }).filter(({ headDim }) => headDim >= 4);

property(
  {
    id: "P29",
    statement:
      "at low rank the joint components lose of the keys what the keys' own components lose as the keys are divided by a number that goes to zero, and of the values what theirs lose as it goes to infinity; in between neither loses less",
    tolerance: "1e-4 of the energy, f64",
    runs: 20,
  },
  [lowRank, ratios],
  (size, alpha) => {
    const { layer, uniform } = layerAndMoment(size);
    const { rest } = rotateKeys(uniform, layer.attention, size.headDim, 1);
    const rank = Math.ceil(rest.rows / 2);
    const keys = seenThrough(rest, keysOf(uniform));
    const values = valuesOf(uniform);
    const [lostKeys, lostValues] = losses(uniform, rest, alpha, rank);
    const leastKeys = tail(keys, rank);
    const leastValues = tail(values, rank);
    expect(lostKeys).toBeGreaterThan(leastKeys - 1e-4 * trace(keys));
    expect(lostValues).toBeGreaterThan(leastValues - 1e-4 * trace(values));
    if (alpha < 1) expect(lostKeys).toBeLessThan(leastKeys + 1e-4 * trace(keys));
    if (alpha > 1) expect(lostValues).toBeLessThan(leastValues + 1e-4 * trace(values));
  },
);

counterexample(
  {
    id: "P29",
    statement:
      "at low rank the balance decides what is lost: components for the values lose more of the keys",
    tolerance: "more than 1e-3 of the energy",
    runs: 20,
  },
  [fc.record({ tokens: fc.integer({ min: 30, max: 40 }), seed: seeds })],
  (sequence) => {
    const size = { hidden: 48, heads: 8, kvHeads: 4, headDim: 6, ...sequence };
    const { layer, uniform } = layerAndMoment(size);
    const { rest } = rotateKeys(uniform, layer.attention, size.headDim, 1);
    const [forValues] = losses(uniform, rest, 1e6, 4);
    const [forKeys] = losses(uniform, rest, 1e-6, 4);
    expect(forValues - forKeys).toBeGreaterThan(BROKEN * trace(keysOf(uniform)));
  },
);
