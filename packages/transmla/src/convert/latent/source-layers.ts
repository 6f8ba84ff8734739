import type { Matrix } from "@transmla/core/linalg";

import { layerPrefix } from "../../model/bind-weights.ts";
import type { GroupedAttention, ModelConfig } from "../../model/config/model-config.ts";
import type { Linear } from "../../model/weights.ts";
import { asMatrix, type HostTensor } from "../host-tensor.ts";
import type { WeightReader } from "../method.ts";
import type { BehindAttention } from "./calibration-stream.ts";
import type { AttentionBiases, HeadNormWeights, SourceAttention } from "./source-layer.ts";

/**
 * Whether a projection of attention has a bias.
 *
 * @param names - Of all weights.
 */
export function hasAttentionBias(names: readonly string[]): boolean {
  return names.some((name) => /\.self_attn\.[qkvo]_proj\.bias$/.test(name));
}

/** Reads the weights of a model that is to be converted, of one layer at a time. */
export class SourceLayers {
  readonly #config: ModelConfig;
  readonly #attention: GroupedAttention;
  readonly #weights: Pick<WeightReader, "has" | "read" | "names">;

  /**
   * @param config - The model, of LLaMA architecture.
   * @param attention - Its attention.
   * @param weights - Its weights.
   */
  constructor(
    config: ModelConfig,
    attention: GroupedAttention,
    weights: Pick<WeightReader, "has" | "read" | "names">,
  ) {
    this.#config = config;
    this.#attention = attention;
    this.#weights = weights;
  }

  /** Whether there is a weight of this name. */
  has(name: string): boolean {
    return this.#weights.has(name);
  }

  /** Any weight by its name. */
  read(name: string): Promise<HostTensor> {
    return this.#weights.read(name);
  }

  /** `[vocab, D]`. */
  embeddings(): Promise<HostTensor> {
    return this.#weights.read("model.embed_tokens.weight");
  }

  /** The weight of the norm before the attention of a layer. */
  norm(layer: number): Promise<HostTensor> {
    return this.#weights.read(`${layerPrefix(layer)}${this.#config.norms.attention}.weight`);
  }

  async #vector(layer: number, name: string): Promise<Float64Array | undefined> {
    const full = `${layerPrefix(layer)}self_attn.${name}`;
    return this.#weights.has(full) ? (await this.#weights.read(full)).data : undefined;
  }

  /** The biases of a layer, zeros where it has none; nothing where no layer has any. */
  async #biases(layer: number): Promise<AttentionBiases | undefined> {
    if (!hasAttentionBias(this.#weights.names)) return undefined;
    const { heads, kvHeads, headDim } = this.#attention;
    const bias = async (part: string, width: number): Promise<Float64Array> =>
      (await this.#vector(layer, `${part}_proj.bias`)) ?? new Float64Array(width);
    return {
      q: await bias("q", heads * headDim),
      k: await bias("k", kvHeads * headDim),
      v: await bias("v", kvHeads * headDim),
      o: await bias("o", this.#config.hiddenSize),
    };
  }

  async #headNorms(layer: number): Promise<HeadNormWeights | undefined> {
    const q = await this.#vector(layer, "q_norm.weight");
    const k = await this.#vector(layer, "k_norm.weight");
    const { normEps: eps, normOffset: offset } = this.#config;
    return q && k && { q, k, eps, offset };
  }

  /** The attention of a layer. */
  async attention(layer: number): Promise<SourceAttention> {
    const projection = async (name: string): Promise<Matrix> =>
      asMatrix(await this.#weights.read(`${layerPrefix(layer)}self_attn.${name}_proj.weight`));
    return {
      biases: await this.#biases(layer),
      norms: await this.#headNorms(layer),
      attention: this.#attention,
      frequencies: this.#config.ropes[layer]!.frequencies,
      q: await projection("q"),
      k: await projection("k"),
      v: await projection("v"),
      o: await projection("o"),
    };
  }

  /** What a layer does behind its attention. */
  async behindAttention(layer: number): Promise<BehindAttention> {
    const linear = async (name: string): Promise<Linear<HostTensor>> => ({
      weight: await this.#weights.read(`${layerPrefix(layer)}mlp.${name}_proj.weight`),
      bias: undefined,
    });
    const bias = `${layerPrefix(layer)}self_attn.o_proj.bias`;
    return {
      outputBias: this.#weights.has(bias) ? await this.#weights.read(bias) : undefined,
      norm: await this.#weights.read(
        `${layerPrefix(layer)}${this.#config.norms.feedForward}.weight`,
      ),
      feedForward: {
        gate: await linear("gate"),
        up: await linear("up"),
        down: await linear("down"),
      },
    };
  }
}
