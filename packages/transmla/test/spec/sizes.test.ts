// What a model caches for each token, and how many weights each form of attention has.
import { fc } from "@fast-check/vitest";
import { sizeOf, type Shape } from "@transmla/core";
import { expect } from "vitest";

import {
  planConversion,
  planTensors,
  type ConversionMethod,
} from "../../src/convert/conversion.ts";
import { mergedTensors } from "../../src/convert/merged.ts";
import { parseConfig } from "../../src/model/config/families.ts";
import { cacheWidth, type HuggingFaceConfig } from "../../src/model/config/model-config.ts";
import { groupedLayer, latentSizes, layerSizes } from "./inputs/layers.ts";
import { converted, latentConfig, sourceModel, sourceSizes } from "./inputs/models.ts";
import { published } from "./inputs/published.ts";
import { property } from "./property.ts";

const sizes = fc.integer({ min: 1, max: 256 });

property(
  {
    id: "P1",
    statement:
      "a token adds 2Hd numbers to the cache of a layer with MHA, 2gd with GQA, 2d with MQA, 2gd with factored and r + d_r with latent attention, whatever H is",
    tolerance: "exact",
  },
  [fc.record({ g: sizes, repeats: sizes, d: sizes, r: sizes, dr: sizes, dn: sizes, dv: sizes })],
  ({ g, repeats, d, r, dr, dn, dv }) => {
    const H = g * repeats;
    const scale = 1;
    expect(cacheWidth({ kind: "grouped", heads: H, kvHeads: H, headDim: d, scale })).toBe(
      2 * H * d,
    );
    expect(cacheWidth({ kind: "grouped", heads: H, kvHeads: g, headDim: d, scale })).toBe(
      2 * g * d,
    );
    expect(cacheWidth({ kind: "grouped", heads: H, kvHeads: 1, headDim: d, scale })).toBe(2 * d);
    const ranks = { keyRank: g * d, valueRank: g * d };
    expect(cacheWidth({ kind: "factored", heads: H, headDim: d, ...ranks, scale })).toBe(2 * g * d);
    const latent = {
      latentRank: r,
      ropeDim: dr,
      blockDim: dr,
      normed: true,
      nopeDim: dn,
      valueDim: dv,
      queryRank: undefined,
      scale,
    };
    expect(cacheWidth({ kind: "latent", heads: H, ...latent })).toBe(r + dr);
  },
);

property(
  {
    id: "P1",
    statement:
      "the factored and the merged conversion leave the cache of a token at 2gd numbers in each layer",
    tolerance: "exact",
  },
  [sourceSizes, fc.constantFrom<ConversionMethod>({ method: "factored" }, { method: "merged" })],
  async (size, method) => {
    const { json } = await converted(sourceModel(size), method);
    expect(cacheWidth(parseConfig(json).attention)).toBe(2 * size.kvHeads * size.headDim);
  },
);

property(
  {
    id: "P2",
    statement:
      "Qwen2.5-7B caches 1024 numbers per token and layer, Qwen2.5-14B and Llama-3-8B 2048, Llama-2-7B 8192; 512 + 64 are 56.25 %, 28.125 %, 28.125 % and 7.03125 % of them",
    tolerance: "exact",
  },
  [],
  () => {
    const latent = { kind: "latent", latentRank: 512, ropeDim: 64, blockDim: 64 } as const;
    const compressed = cacheWidth({
      ...latent,
      normed: true,
      heads: 32,
      nopeDim: 128,
      valueDim: 128,
      queryRank: undefined,
      scale: 1,
    });
    const cached = Object.entries(published).map(([name, json]) => {
      const numbers = cacheWidth(parseConfig(json).attention);
      return [name, numbers, (100 * compressed) / numbers];
    });
    expect(cached).toEqual([
      ["Qwen2.5-7B", 1024, 56.25],
      ["Qwen2.5-14B", 2048, 28.125],
      ["Llama-3-8B", 2048, 28.125],
      ["Llama-2-7B", 8192, 7.03125],
    ]);
  },
);

interface NamedShape {
  readonly name: string;
  readonly shape: Shape;
}

const parameters = (plan: readonly NamedShape[]): number =>
  plan.reduce((total, { shape }) => total + sizeOf(shape), 0);

/** Names and shapes before and after the factored conversion, without any weights. */
function factoredPlans(json: HuggingFaceConfig): {
  before: readonly NamedShape[];
  after: readonly NamedShape[];
} {
  const qwen = json["model_type"] === "qwen2";
  const exists = (name: string): boolean => {
    return name === "lm_head.weight" || (qwen && /\.[qkv]_proj\.bias$/.test(name));
  };
  const before = planTensors(parseConfig(json), exists);
  const names = before.map(({ name }) => name);
  const read = (): never => expect.fail("planning reads no weights");
  const weights = { names, has: (name: string) => names.includes(name), read, pieces: read };
  return { before, after: planConversion(json, weights, { method: "factored" }).plan };
}

property(
  {
    id: "P3",
    statement:
      "factored attention adds 2 gd Hd weights in each layer: 102,760,448 to Qwen2.5-7B, 503,316,480 to Qwen2.5-14B, 268,435,456 to Llama-3-8B; the second factors of Qwen2.5-7B map 512 numbers to 3584",
    tolerance: "exact",
  },
  [],
  () => {
    const expected = [
      ["Qwen2.5-7B", 7_615_616_512, 102_760_448],
      ["Qwen2.5-14B", 14_770_033_664, 503_316_480],
      ["Llama-3-8B", 8_030_261_248, 268_435_456],
    ] as const;
    for (const [name, total, added] of expected) {
      const { before, after } = factoredPlans(published[name]);
      expect(parameters(before)).toBe(total);
      expect(parameters(after)).toBe(total + added);
    }
    const { after } = factoredPlans(published["Qwen2.5-7B"]);
    const up = after.filter(({ name }) => /layers\.0\.self_attn\.[kv]_b_proj\.weight/.test(name));
    expect(up.map(({ shape }) => shape)).toEqual([
      [3584, 512],
      [3584, 512],
    ]);
  },
);

property(
  {
    id: "P3",
    statement: "factored attention adds 2 gd Hd weights in each layer of any model with D >= gd",
    tolerance: "exact",
  },
  [layerSizes(), fc.integer({ min: 1, max: 4 }), fc.constantFrom("llama", "qwen2")],
  ({ hidden, heads, kvHeads, headDim }, layers, family) => {
    const { before, after } = factoredPlans({
      ...published["Llama-3-8B"],
      model_type: family,
      num_hidden_layers: layers,
      hidden_size: hidden,
      num_attention_heads: heads,
      num_key_value_heads: kvHeads,
      head_dim: headDim,
    });
    expect(parameters(after) - parameters(before)).toBe(
      2 * kvHeads * headDim * heads * headDim * layers,
    );
  },
);

type LatentSizes = Readonly<Record<"D" | "H" | "dn" | "dr" | "dv" | "r", number>> & {
  readonly q: number | null;
};

/** D H (d_n + d_r) + D (r + d_r) + r H (d_n + d_v) + H d_v D; with a query rank q the first term is D q + q H (d_n + d_r). */
function attentionWeights({ D, H, dn, dr, dv, r, q }: LatentSizes): number {
  const query = q === null ? D * H * (dn + dr) : D * q + q * H * (dn + dr);
  return query + D * (r + dr) + r * H * (dn + dv) + H * dv * D;
}

/** The weights of matrices: neither biases nor norms. */
const matrixWeights = (plan: readonly NamedShape[]): number =>
  parameters(plan.filter(({ shape }) => shape.length === 2));

property(
  {
    id: "P4",
    statement:
      "a latent layer has D H(d_n + d_r) + D(r + d_r) + r H(d_n + d_v) + H d_v D attention weights without norms and biases, and D q + q H(d_n + d_r) in place of the first term with a query rank q",
    tolerance: "exact",
  },
  [latentSizes],
  (size) => {
    const {
      hidden: D,
      heads: H,
      nopeDim: dn,
      ropeDim: dr,
      valueDim: dv,
      latentRank: r,
      queryRank: q,
    } = size;
    const plan = planTensors(
      parseConfig(latentConfig(size)),
      (name) => !name.endsWith(".bias") || size.biased,
    );
    const attention = plan.filter(({ name }) => name.includes(".layers.0.self_attn."));
    expect(matrixWeights(attention)).toBe(attentionWeights({ D, H, dn, dr, dv, r, q }));
  },
);

property(
  {
    id: "P4",
    statement:
      "the tensors of a merged layer have as many weights, with d_n = d_v = d and r = d_r = gd",
    tolerance: "exact",
  },
  [layerSizes(), fc.boolean()],
  (size, biased) => {
    const { hidden: D, heads: H, kvHeads: g, headDim: d } = size;
    const { weights, attention } = groupedLayer(size, { biased });
    const emitted = Object.entries(mergedTensors(weights, attention, 1, "f32"));
    const plan = emitted.map(([name, { shape }]) => ({ name, shape }));
    expect(matrixWeights(plan)).toBe(
      attentionWeights({ D, H, dn: d, dr: g * d, dv: d, r: g * d, q: biased ? H * d : null }),
    );
  },
);
