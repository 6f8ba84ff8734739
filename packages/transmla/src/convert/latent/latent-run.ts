import type { Backend, Tensor } from "@transmla/core";
import type { LinalgOptions } from "@transmla/core/linalg";

import type { ModelConfig } from "../../model/config/model-config.ts";
import { CalibrationStream } from "./calibration-stream.ts";
import { calibrateLayer, type CalibratedLayer } from "./convert-layer.ts";
import type { LayerInputs, SourceAttention } from "./source-layer.ts";
import type { SourceLayers } from "./source-layers.ts";

/** What a run needs. */
export interface LatentRunOptions {
  /** Where the original model runs over the calibration windows; its kernels in f64 serve the linear algebra. */
  readonly backend: Backend;
  /** Token ids. */
  readonly windows: readonly (readonly number[])[];
  /** The first position that counts as a key: 1 where the first one is kept exactly; 0 when absent. */
  readonly firstKey?: 0 | 1 | undefined;
  /** Whether queries and keys must be linear in the inputs: norms of heads are replaced. */
  readonly linear?: boolean | undefined;
}

/** A layer, what is known of it, and the calibration windows as it sees them. */
export interface VisitedLayer {
  readonly index: number;
  readonly source: SourceAttention;
  readonly inputs: LayerInputs;
  /** The windows as the original model sees them, where layers before are converted. */
  readonly teacher?: LayerInputs | undefined;
  readonly calibrated: CalibratedLayer;
  /** The residual streams of the windows before the layer, `[T, D]` each. */
  readonly streams: readonly Tensor[];
  /** What the converted attention should give of a window; the caller disposes of it. */
  readonly goal: (window: number) => Goal;
  readonly linalg: LinalgOptions;
}

/** What a branch should give of a window, and how much each token counts. */
export interface Goal extends Disposable {
  /** `[T, D]`. */
  readonly target: Tensor;
  /** `[T, 1]`; all alike when absent. */
  readonly weights?: Tensor | undefined;
}

/**
 * Visits the attention of a model layer by layer. Every layer is calibrated on the original model's hidden states, so
 * layers do not depend on each other; memory holds one layer and the residual streams of the windows.
 *
 * @typeParam T - What becomes of a layer.
 */
export class LatentRun<T> implements Disposable {
  readonly #config: ModelConfig;
  readonly #layers: SourceLayers;
  readonly #options: LatentRunOptions;
  readonly #visit: (layer: VisitedLayer) => Promise<T>;
  #stream: CalibrationStream | undefined;
  #next = 0;

  /**
   * @param config - The original model, LLaMA architecture without biases.
   * @param layers - Its weights.
   * @param options - The windows.
   * @param visit - What is done with each layer.
   */
  constructor(
    config: ModelConfig,
    layers: SourceLayers,
    options: LatentRunOptions,
    visit: (layer: VisitedLayer) => Promise<T>,
  ) {
    this.#config = config;
    this.#layers = layers;
    this.#options = options;
    this.#visit = visit;
  }

  /**
   * Visits a layer. Those before it that were not visited are passed: the original runs over them in the same way, so
   * that its hidden states are the same to the bit, with nothing to be stored but the layers.
   *
   * @param index - Which layer; not one that was visited or passed.
   */
  async convert(index: number): Promise<T> {
    while (this.#next < index) await this.#run(async () => undefined);
    return await this.#run(this.#visit);
  }

  /** Runs the original over the next layer. */
  async #run<R>(visit: (layer: VisitedLayer) => Promise<R>): Promise<R> {
    const index = this.#next++;
    const { backend, windows, firstKey, linear } = this.#options;
    this.#stream ??= new CalibrationStream(
      backend,
      this.#config,
      await this.#layers.embeddings(windows),
      windows,
    );
    const original = await this.#layers.attention(index);
    using inputs = this.#stream.inputs(await this.#layers.norm(index));
    const linalg = { blas: backend.blas };
    using calibrated = await calibrateLayer(original, inputs, { linalg, firstKey, linear });
    const { source } = calibrated;
    const { streams } = this.#stream;
    const goal = (window: number): Goal => ({
      target: calibrated.outputs[window]!,
      [Symbol.dispose]: () => undefined,
    });
    const result = await visit({ index, source, inputs, calibrated, streams, goal, linalg });
    if (this.#next < this.#config.layers) {
      using behind = await this.#layers.behindAttention(index, backend);
      this.#stream.advance(index, calibrated.outputs, behind);
    }
    return result;
  }

  /** Frees the residual streams. */
  [Symbol.dispose](): void {
    this.#stream?.[Symbol.dispose]();
    this.#stream = undefined;
  }
}
