// Calibration of a smaller cache: what statistics depend on, what they cost, and what they lead to.
import { fc } from "@fast-check/vitest";
import { tensor, type Backend } from "@transmla/core";
import { expect } from "vitest";

import { uploadAttention } from "../../src/convert/latent/source-layer.ts";
import { MomentSums, type Moments } from "../../src/convert/latent/steps/moments.ts";
import { relativeError, SINGLE } from "./errors.ts";
import { groupedLayer, layerSizes, type GroupedLayer } from "./inputs/layers.ts";
import { converted, modelLogits, onBackend, sourceModel, sourceSizes } from "./inputs/models.ts";
import { referenceMoments, sourceAttention } from "./inputs/moments.ts";
import { Random } from "./inputs/random.ts";
import { backendProperty } from "./property.ts";
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
  [convertible, fc.constantFrom("absorbed" as const, "expanded" as const)],
  async (backend, size, latentForm) => {
    const result = await latent(backend, sourceModel(size));
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
