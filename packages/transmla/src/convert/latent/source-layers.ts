import type { Matrix } from "@transmla/core/linalg";

import { layerPrefix } from "../../model/bind-weights.ts";
import type { GroupedAttention, ModelConfig } from "../../model/config/model-config.ts";
import type { Linear } from "../../model/weights.ts";
import { asMatrix, type HostTensor } from "../host-tensor.ts";
import type { WeightReader } from "../method.ts";
import type { BehindAttention } from "./calibration-stream.ts";
import type { HeadNormWeights, SourceAttention } from "./source-layer.ts";

/** Reads the weights of a model that is to be converted, of one layer at a time. */
export class SourceLayers {
  readonly #config: ModelConfig;
  readonly #attention: GroupedAttention;
  readonly #weights: Pick<WeightReader, "has" | "read">;

  /**
   * @param config - The model, of LLaMA architecture.
   * @param attention - Its attention.
   * @param weights - Its weights.
   */
  constructor(
    config: ModelConfig,
    attention: GroupedAttention,
    weights: Pick<WeightReader, "has" | "read">,
  ) {
    this.#config = config;
    this.#attention = attention;
    this.#weights = weights;
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
    const [q, k, v] = [
      await this.#vector(layer, "q_proj.bias"),
      await this.#vector(layer, "k_proj.bias"),
      await this.#vector(layer, "v_proj.bias"),
    ];
    return {
      biases: { ...(q && { q }), ...(k && { k }), ...(v && { v }) },
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
