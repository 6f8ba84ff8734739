// Calibration of a smaller cache: what statistics depend on, what they cost, and what they lead to.
import { fc } from "@fast-check/vitest";
import { tensor, type Backend } from "@transmla/core";
import { expect } from "vitest";

import { uploadAttention } from "../../src/convert/latent/source-layer.ts";
import { MomentSums, type Moments } from "../../src/convert/latent/steps/moments.ts";
import { backends } from "../backends.ts";
import { BROKEN, relativeError, SINGLE } from "./errors.ts";
import { invertible } from "./inputs/complex.ts";
import { groupedLayer, layerSizes, type GroupedLayer } from "./inputs/layers.ts";
import {
  converted,
  modelLogits,
  onBackend,
  sourceModel,
  sourceSizes,
  type SourceSize,
  type TinyModel,
} from "./inputs/models.ts";
import { referenceMoments, sourceAttention } from "./inputs/moments.ts";
import { Random } from "./inputs/random.ts";
import { backendProperty, counterexample } from "./property.ts";
import type { Rows } from "./reference/attention.ts";
import { decoderLogits } from "./reference/decoder.ts";

/** Moments as a conversion gathers them, in the order of the sequences. */
async function gathered(
  backend: Backend,
  layer: GroupedLayer,
  sequences: readonly Rows[],
): Promise<Moments> {
  const source = sourceAttention(layer);
  const longest = Math.max(...sequences.map((x) => x.length));
  using tensors = uploadAttention(backend, source, longest);
  const sums = new MomentSums(source);
  for (const rows of sequences) {
    using x = tensor(backend, rows.flat(), [rows.length, rows[0]!.length]);
    (await sums.add(x, tensors)).dispose();
  }
  return sums.finish();
}

/** Sequences of different lengths for a layer. */
const sequencesOf = (layer: GroupedLayer, count: number): Rows[] => {
  const random = new Random(layer.x.length);
  return Array.from({ length: count }, (_, i) => random.rows(5 + 3 * i, layer.x[0]!.length));
};

const parts = (moments: Moments): Record<string, ArrayLike<number>> => ({
  uniform: moments.uniform.data,
  received: moments.received.data,
  queries: moments.queries.flatMap(({ data }) => [...data]),
  rotation: [...moments.meanRotation.re, ...moments.meanRotation.im],
  variance: [moments.outputVariance],
});

function expectEqual(found: Moments, expected: Moments, tolerance: number): void {
  const [a, b] = [parts(found), parts(expected)];
  for (const name of Object.keys(a)) {
    expect(relativeError(a[name]!, b[name]!)).toBeLessThan(tolerance);
  }
}

backendProperty(
  {
    id: "P44",
    statement:
      "moments that are gathered window by window equal those over all tokens at once: of keys and values, uniform and by the attention they receive, of queries, of rotations, and the variance of outputs",
    tolerance: "1e-4 relative, f32",
    runs: 10,
  },
  [layerSizes()],
  async (backend, size) => {
    const layer = groupedLayer(size);
    const sequences = sequencesOf(layer, 3);
    const found = await gathered(backend, layer, sequences);
    expectEqual(found, referenceMoments(layer, sequences), SINGLE);
  },
);

/** A backend that remembers the most bytes that were live. */
function metered(backend: Backend): { readonly backend: Backend; readonly peak: () => number } {
  let peak = 0;
  const allocate = (bytes: number): unknown => {
    const buffer: unknown = backend.allocate(bytes);
    peak = Math.max(peak, backend.memory().bytes);
    return buffer;
  };
  return { backend: { ...backend, allocate }, peak: () => peak };
}

backendProperty(
  {
    id: "P44",
    statement: "gathering moments takes as much memory for four times as many windows",
    tolerance: "equal peak bytes",
  },
  [layerSizes()],
  async (backend, size) => {
    const layer = groupedLayer(size);
    const peaks: number[] = [];
    for (const count of [2, 8]) {
      const meter = metered(backend);
      await gathered(
        meter.backend,
        layer,
        Array.from({ length: count }, () => layer.x),
      );
      peaks.push(meter.peak());
    }
    expect(peaks[1]).toBe(peaks[0]);
  },
);

backendProperty(
  {
    id: "P43",
    statement: "moments do not depend on the order of the windows",
    tolerance: "1e-10 relative",
  },
  [layerSizes()],
  async (backend, size) => {
    const layer = groupedLayer(size);
    const sequences = sequencesOf(layer, 4);
    const found = await gathered(backend, layer, sequences.toReversed());
    expectEqual(found, await gathered(backend, layer, sequences), 1e-10);
  },
);

backendProperty(
  {
    id: "P43",
    statement: "moments do not depend on the backend: they are those of the CPU backend",
    tolerance: "1e-4 relative, f32",
    runs: 3,
  },
  [layerSizes()],
  async (backend, size) => {
    const layer = groupedLayer(size);
    const sequences = sequencesOf(layer, 2);
    const [, cpu] = backends[0]!;
    expectEqual(
      await gathered(backend, layer, sequences),
      await gathered(cpu, layer, sequences),
      SINGLE,
    );
  },
);

const convertible = sourceSizes.filter(({ headDim }) => headDim >= 4);

/** A latent conversion of a random model, calibrated on random tokens. */
async function latent(
  backend: Backend,
  source: ReturnType<typeof sourceModel>,
): ReturnType<typeof converted> {
  const random = new Random(source.tokens.length);
  const calibration = [random.integers(40, 64), random.integers(30, 64)];
  const recipe = { ropeDim: 2, latentRank: 3 };
  return converted(source, { method: "latent", ...recipe, calibration, backend });
}

backendProperty(
  {
    id: "P43",
    statement: "the same windows give the same tensors, to the bit",
    tolerance: "equal",
  },
  [convertible],
  async (backend, size) => {
    const source = sourceModel(size);
    const first = await latent(backend, source);
    expect(await latent(backend, source)).toEqual(first);
  },
);

backendProperty(
  {
    id: "P39",
    statement:
      "DeepSeek-V3 in f64, with live norms, and the runtime of this library, absorbed and expanded, give the same logits on the checkpoint of a latent conversion",
    tolerance: "1e-4 relative, f32",
  },
  [convertible, fc.constantFrom("absorbed" as const, "expanded" as const), fc.boolean()],
  async (backend, size, latentForm, normed) => {
    const family = normed && !size.biased ? "qwen3" : size.family;
    const result = await latent(backend, sourceModel({ ...size, family }));
    const expected = decoderLogits(result.tokens, result.json, result.tensors);
    using model = onBackend(backend, result);
    const logits = await modelLogits(model, [result.tokens], { latentForm });
    expect(relativeError(logits, expected)).toBeLessThan(SINGLE);
  },
);

backendProperty(
  {
    id: "P28",
    statement:
      "with one kv head, a slot for every frequency and a latent of full rank, a latent conversion gives the logits of the source, LLaMA and Qwen2 with their biases",
    tolerance: "1e-3 relative, f32",
    runs: 10,
  },
  [convertible, fc.boolean()],
  async (backend, size, logitRefit) => {
    const source = sourceModel({ ...size, kvHeads: 1 });
    const random = new Random(source.tokens.length);
    const result = await converted(source, {
      method: "latent",
      ropeDim: size.headDim,
      latentRank: 2 * size.headDim,
      logitRefit,
      outputRidge: "none",
      calibration: [random.integers(40, 64), random.integers(30, 64)],
      backend,
    });
    using before = onBackend(backend, source);
    using after = onBackend(backend, result);
    const expected = await modelLogits(before, [source.tokens]);
    expect(relativeError(await modelLogits(after, [source.tokens]), expected)).toBeLessThan(1e-3);
  },
);

/**
 * A model with norms of heads and one kv head, whose inputs of attention all have one length; with `isometric` heads their
 * queries and keys have, too.
 */
function normedModel(size: SourceSize, isometric: boolean): TinyModel {
  const { headDim, heads } = size;
  const one = { ...size, family: "qwen3" as const, biased: false, kvHeads: 1, hidden: headDim };
  const source = sourceModel({ ...one, eps: 1e-6 });
  const random = new Random(size.seed);
  const tensors = new Map(source.tensors);
  const set = (name: string, change: (x: number, i: number) => number): void => {
    const { shape, data } = tensors.get(name)!;
    tensors.set(name, { shape, data: data.map(change) });
  };
  set("model.embed_tokens.weight", (x) => 50 * x); // beside which epsilon is nothing
  for (let layer = 0; layer < size.layers; layer++) {
    const prefix = `model.layers.${layer}.`;
    set(`${prefix}input_layernorm.weight`, () => 1);
    if (!isometric) continue;
    for (const [name, count] of [
      ["q_proj", heads],
      ["k_proj", 1],
    ] as const) {
      const rows = Array.from(
        { length: count },
        () => invertible(random, headDim, "orthogonal").matrix.re,
      );
      const data = Float64Array.from(rows.flat(2));
      tensors.set(`${prefix}self_attn.${name}.weight`, { shape: [count * headDim, headDim], data });
    }
  }
  return { ...source, tensors };
}

/** The error of the logits of a latent conversion with a slot for every frequency and a latent of full rank. */
async function fullRankError(
  backend: Backend,
  source: TinyModel,
  size: SourceSize,
): Promise<number> {
  const random = new Random(source.tokens.length);
  const result = await converted(source, {
    method: "latent",
    ropeDim: size.headDim,
    latentRank: 2 * size.headDim,
    outputRidge: "none",
    calibration: [random.integers(40, 64), random.integers(30, 64)],
    backend,
  });
  using before = onBackend(backend, source);
  using after = onBackend(backend, result);
  const expected = await modelLogits(before, [source.tokens]);
  return relativeError(await modelLogits(after, [source.tokens]), expected);
}

backendProperty(
  {
    id: "P42",
    statement:
      "where the norms of heads divide all tokens by the same number, the linear queries and keys that a stock latent attention has in their place are exact: with one kv head, a slot for every frequency and a latent of full rank the logits are those of the source",
    tolerance: "1e-3 relative, f32",
  },
  [convertible],
  async (backend, size) => {
    const source = normedModel(size, true);
    expect(await fullRankError(backend, source, size)).toBeLessThan(1e-3);
  },
);

counterexample(
  {
    id: "P42",
    statement:
      "where norms of heads divide tokens by other numbers, linear queries and keys change the logits",
    tolerance: "> 1e-3 relative",
    runs: 5,
  },
  [convertible],
  async (size) => {
    const [, backend] = backends[0]!;
    const source = normedModel(size, false);
    expect(await fullRankError(backend, source, size)).toBeGreaterThan(BROKEN);
  },
);
