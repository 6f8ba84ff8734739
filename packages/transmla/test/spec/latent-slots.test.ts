// What of the keys keeps its rotation in a smaller cache: slots, their frequencies, and what stands for the rest.
import { fc } from "@fast-check/vitest";
import { eigh, identity, matrix, type Matrix } from "@transmla/core/linalg";
import { expect } from "vitest";

import type { Moments } from "../../src/convert/latent/steps/moments.ts";
import { chooseSlots } from "../../src/convert/latent/steps/slots.ts";
import { parseConfig } from "../../src/model/config/families.ts";
import { EXACT, relativeError } from "./errors.ts";
import { groupedLayer, layerSizes, seeds, type LayerSize } from "./inputs/layers.ts";
import { converted, sourceModel, sourceSizes, type SourceSize } from "./inputs/models.ts";
import { referenceMoments } from "./inputs/moments.ts";
import { Random } from "./inputs/random.ts";
import { backendProperty, counterexample, property } from "./property.ts";
import { groupedScores } from "./reference/attention.ts";
import { decoderLogits } from "./reference/decoder.ts";

/** Moments of a random layer, whose queries all have the same power. */
function momentsOf(size: LayerSize): { readonly moments: Moments; readonly keyEnergy: number } {
  const layer = groupedLayer(size);
  const found = referenceMoments(layer, [layer.x]);
  const { heads, kvHeads, headDim } = size;
  const scale = kvHeads / (2 * heads); // each kv head is read with a power of 1 at each frequency
  const even = identity(headDim);
  const queries = found.queries.map(() => ({ ...even, data: even.data.map((x) => scale * x) }));
  const width = kvHeads * headDim;
  let keyEnergy = 0;
  for (let i = 0; i < width; i++) keyEnergy += found.uniform.data[i * found.uniform.cols + i]!;
  return { moments: { ...found, queries }, keyEnergy: keyEnergy * kvHeads * kvHeads };
}

/** E[x xᵀ + y yᵀ] of the keys x + i y of all kv heads at one frequency: the real part of their covariance. */
function realCovariance({ uniform }: Moments, c: LayerSize, l: number): Matrix {
  const { kvHeads: g, headDim: d } = c;
  const covariance = matrix(g, g);
  for (let i = 0; i < g; i++) {
    for (let j = 0; j < g; j++) {
      const moment = (a: number): number => uniform.data[(i * d + a) * uniform.cols + j * d + a]!;
      covariance.data[i * g + j] = moment(l) + moment(l + d / 2);
    }
  }
  return covariance;
}

property(
  {
    id: "P20",
    statement:
      "at each frequency the strongest p complex components of the keys hold at least the energy of the strongest p real ones, and those at least that of any p kv heads",
    tolerance: "1e-9 of the total, f64",
    runs: 30,
  },
  [layerSizes({ minKvHeads: 2 })],
  (size) => {
    const { moments } = momentsOf(size);
    const { energies } = chooseSlots(moments, groupedLayer(size).attention, {
      ropeDim: size.headDim,
      choice: "fast band",
    });
    for (const [l, complex] of energies.entries()) {
      const covariance = realCovariance(moments, size, l);
      const real = eigh(covariance).values;
      const heads = Array.from(
        { length: size.kvHeads },
        (_, j) => covariance.data[j * (size.kvHeads + 1)]!,
      ).toSorted((a, b) => b - a);
      const total = heads.reduce((sum, energy) => sum + energy, 0);
      // Energies are in units of the query power, which is the same for all heads.
      const unit = complex.reduce((sum, energy) => sum + energy, 0) / total;
      let [byComplex, byReal, byHeads] = [0, 0, 0];
      for (let p = 0; p < size.kvHeads; p++) {
        byComplex += complex[p]! / unit;
        byReal += real[p]!;
        byHeads += heads[p]!;
        expect(byComplex).toBeGreaterThanOrEqual(byReal - 1e-9 * total);
        expect(byReal).toBeGreaterThanOrEqual(byHeads - 1e-9 * total);
      }
    }
  },
);

property(
  {
    id: "P21",
    statement:
      "the slots and what is left of the keys behind them are orthogonal in the query-weighted metric: the energies of kept and residual components add up to the total",
    tolerance: "1e-6 relative, f64: query powers have a floor of 1e-9",
    runs: 30,
  },
  [layerSizes()],
  (size) => {
    const { moments, keyEnergy } = momentsOf(size);
    const { energies } = chooseSlots(moments, groupedLayer(size).attention, {
      ropeDim: 2,
      choice: "fast band",
    });
    const total = energies
      .flatMap((values) => [...values])
      .reduce((sum, energy) => sum + energy, 0);
    const power = total / (keyEnergy / size.kvHeads ** 2);
    // Σ_h E|q_{h,l}|² of a kv head: H/g heads, two components of power g / (2 H) each.
    expect(power).toBeCloseTo(1, 6);
  },
);

const bases = fc.constantFrom(100, 10_000, 500_000, 1_000_000);

/** The frequencies that this library reads from a config. */
function frequencies(headDim: number, rope: object): readonly number[] {
  const config = parseConfig({
    model_type: "llama",
    hidden_size: 64,
    intermediate_size: 64,
    num_hidden_layers: 1,
    num_attention_heads: 1,
    head_dim: headDim,
    vocab_size: 64,
    max_position_embeddings: 64,
    rope_parameters: rope,
  });
  return config.ropes[0]!.frequencies;
}

property(
  {
    id: "P24",
    statement:
      "a key of width d_r has every (d/d_r)-th frequency of a head of width d under the same base, and its fastest d_r/2 under the base raised to d_r/d; the scaling of Llama 3 commutes with both",
    tolerance: "1e-15 absolute",
  },
  [fc.integer({ min: 1, max: 16 }), fc.integer({ min: 1, max: 8 }), bases, fc.boolean()],
  (slots, ratio, base, llama3) => {
    const [ropeDim, headDim] = [2 * slots, 2 * slots * ratio];
    const scaling = llama3
      ? {
          rope_type: "llama3",
          factor: 8,
          low_freq_factor: 1,
          high_freq_factor: 4,
          original_max_position_embeddings: 512,
        }
      : { rope_type: "default" };
    const all = frequencies(headDim, { ...scaling, rope_theta: base });
    const thinned = frequencies(ropeDim, { ...scaling, rope_theta: base });
    const band = frequencies(ropeDim, { ...scaling, rope_theta: base ** (1 / ratio) });
    for (let p = 0; p < slots; p++) {
      expect(Math.abs(thinned[p]! - all[p * ratio]!)).toBeLessThan(1e-15);
      expect(Math.abs(band[p]! - all[p]!)).toBeLessThan(1e-15);
    }
  },
);

const multiQuery: fc.Arbitrary<SourceSize> = fc
  .record({
    layers: fc.integer({ min: 1, max: 2 }),
    heads: fc.integer({ min: 1, max: 4 }),
    pairs: fc.integer({ min: 1, max: 4 }),
    tied: fc.boolean(),
    eps: fc.constantFrom(1e-5, 1e-6),
    seed: seeds,
  })
  .map(({ pairs, ...size }) => ({
    ...size,
    family: "llama",
    kvHeads: 1,
    headDim: 2 * pairs,
    hidden: 4 * pairs + 6,
    biased: false,
    rope: { rope_type: "default", rope_theta: 10_000 },
    tokens: 20,
  }));

backendProperty(
  {
    id: "P28",
    statement:
      "with one kv head, all of its frequencies in the slots and a latent as wide as its values, the calibrated conversion is exact: DeepSeek-V3 on its tensors gives the logits of the source",
    tolerance: "1e-5 relative: calibration in f32 leaves its rounding in the latent",
    runs: 10,
  },
  [multiQuery],
  async (backend, size) => {
    const source = sourceModel(size);
    const random = new Random(size.seed);
    const result = await converted(source, {
      method: "latent",
      ropeDim: size.headDim,
      latentRank: size.headDim,
      calibration: [random.integers(48, 64), random.integers(48, 64)],
      backend,
    });
    const expected = decoderLogits(source.tokens, source.json, source.tensors);
    const found = decoderLogits(result.tokens, result.json, result.tensors);
    expect(relativeError(found, expected)).toBeLessThan(1e-5);
  },
);

backendProperty(
  {
    id: "P28",
    statement:
      "with as many components as kv heads at all frequencies and a latent as wide as the values, the calibrated conversion of any LLaMA is exact",
    tolerance: "1e-5 relative: calibration in f32 leaves its rounding in the latent",
    runs: 10,
  },
  [sourceSizes],
  async (backend, size) => {
    const rope = { rope_type: "default", rope_theta: 10_000 } as const;
    const source = sourceModel({ ...size, family: "llama", biased: false, rope });
    const random = new Random(size.seed);
    const width = size.kvHeads * size.headDim;
    const result = await converted(source, {
      method: "latent",
      components: size.kvHeads,
      ropeDim: width,
      latentRank: width,
      calibration: [random.integers(48, 64), random.integers(48, 64)],
      backend,
    });
    const expected = decoderLogits(source.tokens, source.json, source.tensors);
    const found = decoderLogits(result.tokens, result.json, result.tensors);
    expect(relativeError(found, expected)).toBeLessThan(1e-5);
  },
);

/** Attention scores of a layer whose first two RoPE pairs of queries and keys are mixed by a rotation. */
function mixedScores(
  size: LayerSize,
  frequencies: readonly number[],
): [number[][][], number[][][]] {
  const layer = groupedLayer(size);
  const rope = { ...layer.rope, frequencies };
  const pairs = size.headDim / 2;
  const mix = (rows: number): Float64Array => {
    const weight =
      rows === size.heads * size.headDim ? layer.weights.q.weight : layer.weights.k.weight;
    const data = weight.data.slice();
    const width = size.hidden;
    for (let row = 0; row < rows; row += size.headDim) {
      for (const first of [row, row + pairs]) {
        for (let i = 0; i < width; i++) {
          const [a, b] = [data[first * width + i]!, data[(first + 1) * width + i]!];
          data[first * width + i] = 0.6 * a - 0.8 * b;
          data[(first + 1) * width + i] = 0.8 * a + 0.6 * b;
        }
      }
    }
    return data;
  };
  const changed = (name: "q" | "k", heads: number): object => {
    const { weight } = layer.weights[name];
    return { [name]: { weight: { ...weight, data: mix(heads * size.headDim) }, bias: undefined } };
  };
  const weights = {
    ...layer.weights,
    ...changed("q", size.heads),
    ...changed("k", size.kvHeads),
  };
  return [
    groupedScores(layer.x, weights, layer.attention, rope),
    groupedScores(layer.x, layer.weights, layer.attention, rope),
  ];
}

const twoPairs = layerSizes({ minRepeats: 2 }).filter(({ headDim }) => headDim >= 4);

property(
  {
    id: "P18",
    statement:
      "mixing two pairs of one frequency, alike in queries and keys, leaves the scores as they are",
    tolerance: "1e-10 relative, f64",
  },
  [twoPairs],
  (size) => {
    const same = Array.from({ length: size.headDim / 2 }, (_, l) => 0.9 ** Math.max(l, 1));
    const [mixed, original] = mixedScores(size, same);
    expect(relativeError(mixed, original)).toBeLessThan(EXACT);
  },
);

counterexample(
  {
    id: "P18",
    statement: "mixing two pairs of different frequencies changes the scores",
    tolerance: "more than 1e-3 relative",
  },
  [twoPairs],
  (size) => {
    const different = Array.from({ length: size.headDim / 2 }, (_, l) => 0.2 ** l);
    const [mixed, original] = mixedScores(size, different);
    expect(relativeError(mixed, original)).toBeGreaterThan(1e-3);
  },
);
