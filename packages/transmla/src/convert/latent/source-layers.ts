import type { Matrix } from "@transmla/core/linalg";

import { layerPrefix } from "../../model/bind-weights.ts";
import type { GroupedAttention, ModelConfig } from "../../model/config/model-config.ts";
import type { Linear } from "../../model/weights.ts";
import { asMatrix, type HostTensor } from "../host-tensor.ts";
import type { BehindAttention } from "./calibration-stream.ts";
import type { SourceAttention } from "./source-layer.ts";

/** Reads the weights of a model that is to be converted, of one layer at a time. */
export class SourceLayers {
  readonly #config: ModelConfig;
  readonly #attention: GroupedAttention;
  readonly #read: (name: string) => Promise<HostTensor>;

  /**
   * @param config - The model, LLaMA architecture without biases.
   * @param attention - Its attention.
   * @param read - Reads a weight by name.
   */
  constructor(
    config: ModelConfig,
    attention: GroupedAttention,
    read: (name: string) => Promise<HostTensor>,
  ) {
    this.#config = config;
    this.#attention = attention;
    this.#read = read;
  }

  /** `[vocab, D]`. */
  embeddings(): Promise<HostTensor> {
    return this.#read("model.embed_tokens.weight");
  }

  /** The weight of the norm before the attention of a layer. */
  norm(layer: number): Promise<HostTensor> {
    return this.#read(`${layerPrefix(layer)}${this.#config.norms.attention}.weight`);
  }

  /** The attention of a layer. */
  async attention(layer: number): Promise<SourceAttention> {
    const projection = async (name: string): Promise<Matrix> =>
      asMatrix(await this.#read(`${layerPrefix(layer)}self_attn.${name}_proj.weight`));
    return {
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
      weight: await this.#read(`${layerPrefix(layer)}mlp.${name}_proj.weight`),
      bias: undefined,
    });
    return {
      norm: await this.#read(`${layerPrefix(layer)}${this.#config.norms.feedForward}.weight`),
      feedForward: {
        gate: await linear("gate"),
        up: await linear("up"),
        down: await linear("down"),
      },
    };
  }
}
