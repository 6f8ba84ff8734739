import type { Backend } from "@transmla/core";

import type { ModelConfig } from "../../model/config/model-config.ts";
import { CalibrationStream } from "./calibration-stream.ts";
import { calibrateLayer, convertLayer, type ConvertedLayer } from "./convert-layer.ts";
import type { CompleteRecipe } from "./recipe.ts";
import type { SourceLayers } from "./source-layers.ts";

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
  readonly #layers: SourceLayers;
  readonly #options: LatentRunOptions;
  #stream: CalibrationStream | undefined;
  #next = 0;

  /**
   * @param config - The original model, LLaMA architecture without biases.
   * @param layers - Its weights.
   * @param options - Windows and recipe.
   */
  constructor(config: ModelConfig, layers: SourceLayers, options: LatentRunOptions) {
    this.#config = config;
    this.#layers = layers;
    this.#options = options;
  }

  /** Converts the next layer. */
  async convertNext(): Promise<ConvertedLayer> {
    const layer = this.#next++;
    const { backend, windows, recipe } = this.#options;
    this.#stream ??= new CalibrationStream(
      backend,
      this.#config,
      await this.#layers.embeddings(),
      windows,
    );
    const source = await this.#layers.attention(layer);
    using inputs = this.#stream.inputs(await this.#layers.norm(layer));
    const linalg = { blas: backend.blas };
    using calibrated = await calibrateLayer(source, inputs, linalg);
    const converted = await convertLayer(source, inputs, calibrated, recipe, linalg);
    if (this.#next < this.#config.layers) {
      const behind = await this.#layers.behindAttention(layer);
      this.#stream.advance(layer, calibrated.outputs, behind);
    }
    return converted;
  }

  /** Frees the residual streams. */
  [Symbol.dispose](): void {
    this.#stream?.[Symbol.dispose]();
    this.#stream = undefined;
  }
}
