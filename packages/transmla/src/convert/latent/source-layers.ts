import { tensor, type Backend, type Tensor } from "@transmla/core";
import type { Matrix } from "@transmla/core/linalg";

import { elementCount } from "../../checkpoint/tensors.ts";
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
  readonly #weights: WeightReader;

  /**
   * @param config - The model, of LLaMA architecture.
   * @param attention - Its attention.
   * @param weights - Its weights.
   */
  constructor(config: ModelConfig, attention: GroupedAttention, weights: WeightReader) {
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

  /**
   * The embeddings `[D]` of the tokens that occur in windows; the matrix is read a piece at a time.
   *
   * @param windows - Token ids.
   */
  async embeddings(
    windows: readonly (readonly number[])[],
  ): Promise<ReadonlyMap<number, Float32Array>> {
    const width = this.#config.hiddenSize;
    const rows = new Map(windows.flat().map((id) => [id, new Float32Array(width)]));
    let start = 0;
    for await (const piece of this.#weights.pieces("model.embed_tokens.weight")) {
      const end = start + piece.length;
      for (let id = Math.floor(start / width); id * width < end; id++) {
        const [from, to] = [Math.max(id * width, start), Math.min((id + 1) * width, end)];
        rows.get(id)?.set(piece.subarray(from - start, to - start), from - id * width);
      }
      start = end;
    }
    return rows;
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

  /**
   * What a layer does behind its attention. Each weight is uploaded before the next is read.
   *
   * @param layer - Which layer.
   * @param backend - Where to.
   * @returns Tensors that the caller disposes of.
   */
  async behindAttention(layer: number, backend: Backend): Promise<BehindAttention> {
    const tensors: Tensor[] = [];
    const dispose = (): void => tensors.forEach((held) => held.dispose());
    const { hiddenSize: D, intermediateSize: inner } = this.#config;
    // Rounded piece by piece: a matrix of a feed-forward layer in f64 would be the largest thing that a conversion holds.
    const load = async (name: string, ...shape: number[]): Promise<Tensor> => {
      const numbers = new Float32Array(elementCount(shape));
      let at = 0;
      for await (const piece of this.#weights.pieces(layerPrefix(layer) + name)) {
        numbers.set(piece, at);
        at += piece.length;
      }
      const loaded = tensor(backend, numbers, shape);
      tensors.push(loaded);
      return loaded;
    };
    const linear = async (name: string, ...shape: number[]): Promise<Linear<Tensor>> => ({
      weight: await load(`mlp.${name}_proj.weight`, ...shape),
      bias: undefined,
    });
    const bias = "self_attn.o_proj.bias";
    try {
      return {
        outputBias: this.#weights.has(layerPrefix(layer) + bias) ? await load(bias, D) : undefined,
        norm: await load(`${this.#config.norms.feedForward}.weight`, D),
        feedForward: {
          gate: await linear("gate", inner, D),
          up: await linear("up", inner, D),
          down: await linear("down", D, inner),
        },
        [Symbol.dispose]: dispose,
      };
    } catch (error) {
      dispose();
      throw error;
    }
  }
}
