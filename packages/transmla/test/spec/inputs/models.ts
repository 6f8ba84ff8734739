// Whole models of random weights: drawn, laid out as checkpoints, converted, and run on a backend.
import { fc } from "@fast-check/vitest";
import { tensor, type Backend } from "@transmla/core";

import { collect, elementCount } from "../../../src/checkpoint/tensors.ts";
import {
  planConversion,
  type ConversionMethod,
  type PlanOptions,
  type WeightReader,
} from "../../../src/convert/conversion.ts";
import type { HostTensor } from "../../../src/convert/host-tensor.ts";
import type { HuggingFaceConfig } from "../../../src/model/config/model-config.ts";
import { Model } from "../../../src/model/model.ts";
import type { ActivationDType, ForwardOptions } from "../../../src/model/transformer.ts";
import type { Rows } from "../reference/attention.ts";
import type { Tensors } from "../reference/deepseek.ts";
import type { RopeParameters } from "../reference/rope.ts";
import { seeds, type LatentSize } from "./layers.ts";
import { Random } from "./random.ts";

/** A checkpoint that exists only in memory, and a sequence for it. */
export interface TinyModel {
  /** `config.json`. */
  readonly json: HuggingFaceConfig;
  readonly tensors: Tensors;
  /** Token ids. */
  readonly tokens: readonly number[];
}

const VOCABULARY = 64;

/** A model with grouped-query attention. */
export interface SourceSize {
  readonly family: "llama" | "mistral" | "qwen2" | "qwen3" | "mixtral";
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Biases on q, k, v and o of a LLaMA; a Qwen2 always has those on q, k and v. */
  readonly biased: boolean;
  readonly tied: boolean;
  readonly eps: number;
  readonly rope: RopeParameters;
  readonly tokens: number;
  readonly seed: number;
}

const ropes: readonly RopeParameters[] = [
  { rope_type: "default", rope_theta: 10_000 },
  { rope_type: "linear", rope_theta: 10_000, factor: 4 },
  {
    rope_type: "llama3",
    rope_theta: 500_000,
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 32,
  },
];

/** Models of the families that can become DeepSeek-V3 checkpoints. */
export const sourceSizes: fc.Arbitrary<SourceSize> = fc
  .record({
    family: fc.constantFrom("llama", "mistral", "qwen2"),
    layers: fc.integer({ min: 1, max: 2 }),
    kvHeads: fc.integer({ min: 1, max: 3 }),
    repeats: fc.integer({ min: 1, max: 3 }),
    headDim: fc.integer({ min: 1, max: 4 }).map((pairs) => 2 * pairs),
    spare: fc.nat(8),
    biased: fc.boolean(),
    tied: fc.boolean(),
    eps: fc.constantFrom(1e-5, 1e-6),
    rope: fc.constantFrom(...ropes),
    tokens: fc.integer({ min: 5, max: 20 }),
    seed: seeds,
  })
  .map((size) =>
    Object.assign(size, {
      heads: size.kvHeads * size.repeats,
      hidden: 2 * size.kvHeads * size.headDim + size.spare,
      biased: size.biased && size.family === "llama",
    }),
  );

/** The model of a size. */
export function sourceModel(size: SourceSize): TinyModel {
  const { family, layers, hidden, heads, kvHeads, headDim } = size;
  const random = new Random(size.seed);
  const builder = new CheckpointBuilder(random);
  const inner = 2 * hidden;
  builder.embeddings(hidden);
  for (let layer = 0; layer < layers; layer++) {
    const prefix = `model.layers.${layer}.`;
    const qkvBias = size.biased || family === "qwen2";
    builder.matrix(`${prefix}self_attn.q_proj`, heads * headDim, hidden, qkvBias);
    builder.matrix(`${prefix}self_attn.k_proj`, kvHeads * headDim, hidden, qkvBias);
    builder.matrix(`${prefix}self_attn.v_proj`, kvHeads * headDim, hidden, qkvBias);
    builder.matrix(`${prefix}self_attn.o_proj`, hidden, heads * headDim, size.biased);
    builder.norms(prefix, hidden);
    if (family === "qwen3") {
      for (const name of ["q_norm", "k_norm"]) builder.norm(`${prefix}self_attn.${name}`, headDim);
    }
    if (family === "mixtral") builder.experts(prefix, hidden, inner);
    else builder.feedForward(prefix, hidden, inner);
  }
  builder.norm("model.norm", hidden);
  if (!size.tied) builder.matrix("lm_head", VOCABULARY, hidden);
  const json = {
    model_type: family,
    vocab_size: VOCABULARY,
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    max_position_embeddings: 64,
    rms_norm_eps: size.eps,
    rope_parameters: size.rope,
    tie_word_embeddings: size.tied,
    ...(family === "mixtral" && { num_local_experts: 3, num_experts_per_tok: 2 }),
  };
  return { json, tensors: builder.tensors, tokens: random.integers(size.tokens, VOCABULARY) };
}

/** The config.json of a latent model. */
export function latentConfig(size: LatentSize): HuggingFaceConfig {
  return {
    model_type: "deepseek_v3",
    vocab_size: VOCABULARY,
    hidden_size: size.hidden,
    intermediate_size: 2 * size.hidden,
    num_hidden_layers: size.layers,
    first_k_dense_replace: size.layers,
    num_attention_heads: size.heads,
    num_key_value_heads: size.heads,
    q_lora_rank: size.queryRank,
    kv_lora_rank: size.latentRank,
    qk_nope_head_dim: size.nopeDim,
    qk_rope_head_dim: size.ropeDim,
    v_head_dim: size.valueDim,
    head_dim: size.ropeDim,
    attention_bias: size.biased,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-6,
    rope_parameters: { rope_type: "default", rope_theta: 1000 },
    tie_word_embeddings: false,
  };
}

/** A whole latent model of the DeepSeek form; its first layer serves where one layer is enough. */
export function latentModel(size: LatentSize): TinyModel {
  const { hidden, layers, heads, nopeDim, ropeDim, valueDim, latentRank, queryRank, biased } = size;
  const random = new Random(size.seed);
  const builder = new CheckpointBuilder(random);
  builder.embeddings(hidden);
  for (let layer = 0; layer < layers; layer++) {
    const prefix = `model.layers.${layer}.`;
    const attention = `${prefix}self_attn.`;
    if (queryRank === null) {
      builder.matrix(`${attention}q_proj`, heads * (nopeDim + ropeDim), hidden);
    } else {
      builder.matrix(`${attention}q_a_proj`, queryRank, hidden, biased);
      builder.norm(`${attention}q_a_layernorm`, queryRank);
      builder.matrix(`${attention}q_b_proj`, heads * (nopeDim + ropeDim), queryRank);
    }
    builder.matrix(`${attention}kv_a_proj_with_mqa`, latentRank + ropeDim, hidden, biased);
    builder.norm(`${attention}kv_a_layernorm`, latentRank);
    builder.matrix(`${attention}kv_b_proj`, heads * (nopeDim + valueDim), latentRank);
    builder.matrix(`${attention}o_proj`, hidden, heads * valueDim, biased);
    builder.norms(prefix, hidden);
    builder.feedForward(prefix, hidden, 2 * hidden);
  }
  builder.norm("model.norm", hidden);
  builder.matrix("lm_head", VOCABULARY, hidden);
  const tokens = random.integers(size.tokens, VOCABULARY);
  return { json: latentConfig(size), tensors: builder.tensors, tokens };
}

/** Collects random tensors under their names. */
class CheckpointBuilder {
  readonly tensors: Map<string, HostTensor> = new Map();
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  matrix(name: string, outputs: number, inputs: number, biased = false): void {
    const { weight, bias } = this.#random.linear(outputs, inputs, biased);
    this.tensors.set(`${name}.weight`, weight);
    if (bias) this.tensors.set(`${name}.bias`, bias);
  }

  /** Of the size that trained models have: small enough for the epsilon of the first norm to matter. */
  embeddings(hidden: number): void {
    this.tensors.set("model.embed_tokens.weight", this.#random.tensor([VOCABULARY, hidden], 0.02));
  }

  norm(name: string, width: number): void {
    this.tensors.set(`${name}.weight`, this.#random.norm(width));
  }

  norms(prefix: string, hidden: number): void {
    this.norm(`${prefix}input_layernorm`, hidden);
    this.norm(`${prefix}post_attention_layernorm`, hidden);
  }

  feedForward(prefix: string, hidden: number, inner: number): void {
    this.matrix(`${prefix}mlp.gate_proj`, inner, hidden);
    this.matrix(`${prefix}mlp.up_proj`, inner, hidden);
    this.matrix(`${prefix}mlp.down_proj`, hidden, inner);
  }

  experts(prefix: string, hidden: number, inner: number): void {
    this.matrix(`${prefix}block_sparse_moe.gate`, 3, hidden);
    for (let expert = 0; expert < 3; expert++) {
      const name = `${prefix}block_sparse_moe.experts.${expert}.`;
      this.matrix(`${name}w1`, inner, hidden);
      this.matrix(`${name}w3`, inner, hidden);
      this.matrix(`${name}w2`, hidden, inner);
    }
  }
}

/** The tensors of a model, as a conversion reads them. */
function weightReader(tensors: Tensors): WeightReader {
  return {
    names: [...tensors.keys()],
    has: (name) => tensors.has(name),
    read: (name) => Promise.resolve(tensors.get(name)!),
    pieces: async function* (name) {
      yield tensors.get(name)!.data.slice();
    },
  };
}

/** What the library makes of a model, in f64: config.json and tensors as they would be written. */
export async function converted(
  { json, tensors, tokens }: TinyModel,
  options: ConversionMethod & PlanOptions,
): Promise<TinyModel> {
  const conversion = planConversion(json, weightReader(tensors), options);
  const result = new Map<string, HostTensor>();
  for await (const { name, shape, pieces } of conversion.tensors()) {
    result.set(name, { shape, data: await collect(pieces, new Float64Array(elementCount(shape))) });
  }
  return { json: conversion.config, tensors: result, tokens };
}

/** The model on a backend, its weights in f32; the caller disposes of it. */
export function onBackend(
  backend: Backend,
  { json, tensors }: TinyModel,
  activations?: ActivationDType,
): Model {
  const entries = [...tensors].map(([name, { data, shape }]) => {
    return [name, tensor(backend, Float32Array.from(data), shape)] as const;
  });
  const assets = { tokenizer: undefined, chatTemplate: undefined, endTokens: [], sampling: {} };
  return new Model(backend, json, new Map(entries), assets, activations);
}

/** Logits `[T, vocab]` of a sequence that passes the model in pieces. */
export async function modelLogits(
  model: Model,
  pieces: readonly (readonly number[])[],
  options: ForwardOptions = {},
): Promise<Rows> {
  using cache = model.createCache(pieces.flat().length);
  const rows: Rows = [];
  for (const piece of pieces) {
    using logits = model.forward(piece, cache, { ...options, logits: "all" });
    const values = await logits.read();
    const vocabulary = model.config.vocabSize;
    for (let t = 0; t < piece.length; t++)
      rows.push([...values.subarray(t * vocabulary, (t + 1) * vocabulary)]);
  }
  return rows;
}
