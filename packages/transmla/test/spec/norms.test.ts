// The norms of the vanilla format: how a converted model gets past them.
import { fc } from "@fast-check/vitest";
import { fromBf16Bits, toBf16Bits } from "@transmla/core";
import { expect } from "vitest";

import type { HostTensor } from "../../src/convert/host-tensor.ts";
import { mergedTensors, normCompensation, residualScale } from "../../src/convert/merged.ts";
import { EXACT, relativeError } from "./errors.ts";
import { groupedLayer, latentSizes, layerSizes, seeds, type LatentSize } from "./inputs/layers.ts";
import {
  converted,
  latentModel,
  modelLogits,
  onBackend,
  sourceModel,
  sourceSizes,
  type TinyModel,
} from "./inputs/models.ts";
import { Random } from "./inputs/random.ts";
import { backendProperty, counterexample, property } from "./property.ts";
import { rmsNorm, type Rows } from "./reference/attention.ts";
import { decoderLogits } from "./reference/decoder.ts";
import { deepseekAttention, type Tensors } from "./reference/deepseek.ts";

/** The tensors with some multiplied by a factor. */
function scaledWhere(tensors: Tensors, names: RegExp, factor: number): Map<string, HostTensor> {
  return new Map(
    [...tensors].map(([name, { shape, data }]) => {
      return [name, { shape, data: names.test(name) ? data.map((value) => value * factor) : data }];
    }),
  );
}

/** What writes into the residual stream. */
const residualWriters = /embed_tokens\.weight$|\.(o_proj|down_proj|w2)\.(weight|bias)$/;

const logits = ({ tokens, json, tensors }: TinyModel): Rows => decoderLogits(tokens, json, tensors);

/** Source models of epsilon 1e-5: dense, and with experts. */
const coarse = fc.tuple(sourceSizes, fc.boolean()).map(([size, experts]) => {
  return Object.assign({}, size, { eps: 1e-5 }, experts && { family: "mixtral" as const });
});

property(
  {
    id: "P36",
    statement:
      "what writes into the residual stream times η = √(1e-6 / eps), and 1e-6 as epsilon, leave the logits unchanged; with tied embeddings the final norm is divided by η; experts are covered",
    tolerance: "1e-10 relative, f64",
    runs: 30,
  },
  [coarse],
  (size) => {
    const source = sourceModel(size);
    const eta = residualScale(size.eps);
    expect(eta).toBeCloseTo(Math.sqrt(0.1), 14);
    const scaled = scaledWhere(source.tensors, residualWriters, eta);
    const tensors = size.tied ? scaledWhere(scaled, /^model\.norm\.weight$/, 1 / eta) : scaled;
    const rescaled = { ...source, tensors, json: { ...source.json, rms_norm_eps: 1e-6 } };
    expect(relativeError(logits(rescaled), logits(source))).toBeLessThan(EXACT);
  },
);

counterexample(
  {
    id: "P36",
    statement: "another epsilon alone changes the logits",
    tolerance: "> 1e-4 relative",
    runs: 30,
  },
  [coarse],
  (size) => {
    const source = sourceModel(size);
    const changed = { ...source, json: { ...source.json, rms_norm_eps: 1e-6 } };
    expect(relativeError(logits(changed), logits(source))).toBeGreaterThan(1e-4);
  },
);

property(
  {
    id: "P36",
    statement:
      "the merged conversion multiplies embeddings, o_proj and down_proj by η, leaves the other tensors outside of attention as they are, and writes the unscaled embeddings as the head of a tied model",
    tolerance: "exact",
    runs: 20,
  },
  [sourceSizes],
  async (size) => {
    const source = sourceModel(size);
    const { tensors } = await converted(source, { method: "merged" });
    const eta = residualScale(size.eps);
    const expected = scaledWhere(source.tensors, residualWriters, eta);
    expected.set(
      "lm_head.weight",
      source.tensors.get(size.tied ? "model.embed_tokens.weight" : "lm_head.weight")!,
    );
    for (const [name, tensor] of tensors) {
      if (!name.includes(".self_attn.") || name.endsWith("o_proj.weight"))
        expect(tensor).toEqual(expected.get(name));
    }
  },
);

/** The rows of the shared rope key times s, the rope rows of every query head times 1/s. */
function ropeScaled(tensors: Tensors, size: LatentSize, s: number): Map<string, HostTensor> {
  const head = size.nopeDim + size.ropeDim;
  const scaleRows = (
    { shape, data }: HostTensor,
    by: number,
    chosen: (row: number) => boolean,
  ): HostTensor => {
    const width = shape[1] ?? 1;
    return {
      shape,
      data: data.map((value, i) => (chosen(Math.floor(i / width)) ? value * by : value)),
    };
  };
  return new Map(
    [...tensors].map(([name, tensor]) => {
      if (name.includes("kv_a_proj_with_mqa"))
        return [name, scaleRows(tensor, s, (row) => row >= size.latentRank)];
      if (/q_(b_)?proj/.test(name))
        return [name, scaleRows(tensor, 1 / s, (row) => row % head >= size.nopeDim)];
      return [name, tensor];
    }),
  );
}

const powersOfTwo = fc.integer({ min: 1, max: 20 }).map((k) => 2 ** -k);

property(
  {
    id: "P37",
    statement:
      "k_rope rows times s and q_rope rows times 1/s, with s a power of two, leave latent attention unchanged",
    tolerance: "bits",
  },
  [latentSizes, powersOfTwo],
  (size, s) => {
    const { json, tensors } = latentModel(size);
    const x = new Random(size.seed + 1).rows(size.tokens, size.hidden);
    const prefix = "model.layers.0.self_attn.";
    const after = deepseekAttention(x, ropeScaled(tensors, size, s), json, {}, prefix);
    expect(after).toEqual(deepseekAttention(x, tensors, json, {}, prefix));
  },
);

backendProperty(
  {
    id: "P37",
    statement:
      "k_rope rows times s and q_rope rows times 1/s, with s a power of two, leave the logits of a model unchanged",
    tolerance: "bits",
  },
  [latentSizes, powersOfTwo],
  async (backend, size, s) => {
    const latent = latentModel(size);
    using model = onBackend(backend, latent);
    using scaled = onBackend(backend, { ...latent, tensors: ropeScaled(latent.tensors, size, s) });
    expect(await modelLogits(scaled, [latent.tokens])).toEqual(
      await modelLogits(model, [latent.tokens]),
    );
  },
);

const NORM_EPS = 1e-6;
const RANK = 64;

/** Heavy-tailed latents `[T, 64]`, the last of them an outlier 14 times as large. */
function heavyTailed(seed: number): Rows {
  const random = new Random(seed);
  const rows = random
    .rows(16, RANK)
    .map((row) => row.map((value) => value * Math.exp(random.gaussian())));
  return rows.map((row, t) => (t === rows.length - 1 ? row.map((value) => 14 * value) : row));
}

const squaredNorm = (z: readonly number[]): number =>
  z.reduce((total, value) => total + value * value, 0);

/** Checks `0 <= 1 - out/z <= bound` for every entry of a row. */
function expectShrunk(out: readonly number[], z: readonly number[], bound: number): void {
  const rounding = 1e-14;
  const shrinkage = z.map((value, i) => 1 - out[i]! / value);
  expect(Math.min(...shrinkage)).toBeGreaterThanOrEqual(-rounding);
  expect(Math.max(...shrinkage)).toBeLessThanOrEqual(bound + rounding);
}

property(
  {
    id: "P38",
    statement:
      "with a constant channel C the norm of the latent z is the identity: 0 ≤ 1 - out/z ≤ (‖z‖² + r eps) / 2C², and the channel itself is the constant 1, a column for biases, as closely",
    tolerance: "the bound, f64",
  },
  [seeds, fc.integer({ min: 8, max: 12 })],
  (seed, k) => {
    const C = 2 ** k;
    const r = RANK + 1;
    const gamma = [...new Array<number>(RANK).fill(C / Math.sqrt(r)), 1 / Math.sqrt(r)];
    for (const z of heavyTailed(seed)) {
      const [out] = rmsNorm([[...z, C]], gamma, NORM_EPS) as [number[]];
      expectShrunk(out, [...z, 1], (squaredNorm(z) + r * NORM_EPS) / (2 * C * C));
    }
  },
);

property(
  {
    id: "P38",
    statement:
      "with a latent s z so small that epsilon dominates, the norm is the constant s/√eps: 0 ≤ 1 - out/z ≤ s² ms(z) / 2 eps, and a channel of constant value in it stays constant as closely",
    tolerance: "the bound, f64",
  },
  [seeds, fc.integer({ min: 10, max: 22 })],
  (seed, k) => {
    const s = 2 ** -k;
    const gamma = new Array<number>(RANK + 1).fill(Math.sqrt(NORM_EPS) / s);
    for (const row of heavyTailed(seed)) {
      const z = [...row, 1];
      const meanSquare = squaredNorm(z) / z.length;
      const [out] = rmsNorm([z.map((value) => s * value)], gamma, NORM_EPS) as [number[]];
      expectShrunk(out, z, (s * s * meanSquare) / (2 * NORM_EPS));
    }
  },
);

property(
  {
    id: "P38",
    statement:
      "the factors that the merged conversion writes cancel the dominated norm: latent rows times s, norm weight times up-projection √eps/s, all of them powers of two or representable in the output dtype",
    tolerance: "1e-7 relative in f32, 1e-4 in bf16",
  },
  [layerSizes(), fc.constantFrom<"f32" | "bf16">("f32", "bf16")],
  (size, dtype) => {
    const { weights, attention } = groupedLayer(size);
    const tensors = mergedTensors(weights, attention, 1, dtype);
    const s = tensors["kv_a_proj_with_mqa.weight"]!.data[0]! / weights.v.weight.data[0]!;
    expect(Number.isInteger(Math.log2(s))).toBe(true);
    const { gamma, up } = normCompensation(dtype);
    expect(new Set(tensors["kv_a_layernorm.weight"]!.data)).toEqual(new Set([gamma]));
    expect(new Set(tensors["kv_b_proj.weight"]!.data)).toEqual(new Set([0, up]));
    const round =
      dtype === "f32" ? Math.fround : (value: number) => fromBf16Bits(toBf16Bits(value));
    expect(round(gamma)).toBe(gamma);
    const product = (s * gamma * round(up)) / Math.sqrt(NORM_EPS);
    expect(Math.abs(product - 1)).toBeLessThan(dtype === "f32" ? 1e-7 : 1e-4);
  },
);
