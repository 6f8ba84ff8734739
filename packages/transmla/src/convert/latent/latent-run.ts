import type { Backend } from "@transmla/core";

import { layerPrefix } from "../../model/bind-weights.ts";
import type { GroupedAttention, ModelConfig } from "../../model/config/model-config.ts";
import type { Linear } from "../../model/weights.ts";
import { asMatrix, type HostTensor } from "../host-tensor.ts";
import { CalibrationStream } from "./calibration-stream.ts";
import { calibrateLayer, convertLayer, type ConvertedLayer } from "./convert-layer.ts";
import type { CompleteRecipe } from "./recipe.ts";
import type { SourceAttention } from "./source-layer.ts";

/** What a run needs. */
export interface LatentRunOptions {
  /** Where the original model runs over the calibration windows; its kernels in f64 serve the linear algebra. */
  readonly backend: Backend;
  /** Token ids. */
  readonly windows: readonly (readonly number[])[];
  readonly recipe: CompleteRecipe;
}

/**
 * Converts the attention of a model layer by layer. Every layer is calibrated on the original model's hidden states, so
 * layers do not depend on each other; memory holds one layer and the residual streams of the windows.
 */
export class LatentRun implements Disposable {
  readonly #config: ModelConfig;
  readonly #attention: GroupedAttention;
  readonly #read: (name: string) => Promise<HostTensor>;
  readonly #options: LatentRunOptions;
  #stream: CalibrationStream | undefined;
  #next = 0;

  /**
   * @param config - The original model, LLaMA architecture without biases.
   * @param attention - Its attention.
   * @param read - Reads a weight by name.
   * @param options - Windows and recipe.
   */
  constructor(
    config: ModelConfig,
    attention: GroupedAttention,
    read: (name: string) => Promise<HostTensor>,
    options: LatentRunOptions,
  ) {
    this.#config = config;
    this.#attention = attention;
    this.#read = read;
    this.#options = options;
  }

  /** Converts the next layer. */
  async convertNext(): Promise<ConvertedLayer> {
    const layer = this.#next++;
    const { backend, windows, recipe } = this.#options;
    this.#stream ??= new CalibrationStream(
      backend,
      this.#config,
      await this.#read("model.embed_tokens.weight"),
      windows,
    );
    const prefix = layerPrefix(layer);
    const { norms } = this.#config;
    const source = await this.#sourceAttention(layer);
    using inputs = this.#stream.inputs(await this.#read(`${prefix}${norms.attention}.weight`));
    const linalg = { blas: backend.blas };
    using calibrated = await calibrateLayer(source, inputs, linalg);
    const converted = await convertLayer(source, inputs, calibrated, recipe, linalg);
    if (this.#next < this.#config.layers) {
      this.#stream.advance(layer, calibrated.outputs, {
        norm: await this.#read(`${prefix}${norms.feedForward}.weight`),
        feedForward: {
          gate: await this.#linear(`${prefix}mlp.gate_proj`),
          up: await this.#linear(`${prefix}mlp.up_proj`),
          down: await this.#linear(`${prefix}mlp.down_proj`),
        },
      });
    }
    return converted;
  }

  async #linear(name: string): Promise<Linear<HostTensor>> {
    return { weight: await this.#read(`${name}.weight`), bias: undefined };
  }

  async #sourceAttention(layer: number): Promise<SourceAttention> {
    const projection = async (name: string): Promise<ReturnType<typeof asMatrix>> =>
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

  /** Frees the residual streams. */
  [Symbol.dispose](): void {
    this.#stream?.[Symbol.dispose]();
    this.#stream = undefined;
  }
}
