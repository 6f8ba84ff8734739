import {
  add,
  ArgumentError,
  fail,
  rmsNorm,
  scope,
  tensor,
  type Backend,
  type Tensor,
} from "@transmla/core";

import type { ModelConfig } from "../../model/config/model-config.ts";
import { feedForward } from "../../model/feed-forward.ts";
import type { DenseWeights } from "../../model/weights.ts";
import type { HostTensor } from "../host-tensor.ts";
import type { LayerInputs } from "./source-layer.ts";

/** What a layer does behind its attention, on the backend of the streams. */
export interface BehindAttention extends Disposable {
  /** Added to the outputs of the attention. */
  readonly outputBias: Tensor | undefined;
  /** The weight of the norm between the branches. */
  readonly norm: Tensor;
  readonly feedForward: DenseWeights<Tensor>;
}

/** The residual streams of all calibration windows, between two layers of the original model. */
export class CalibrationStream implements Disposable {
  readonly #config: ModelConfig;
  readonly #backend: Backend;
  #streams: Tensor[];

  /**
   * Embeds the windows.
   *
   * @param backend - Where the streams live.
   * @param config - The original model.
   * @param embeddings - The rows `[D]` of the token ids that occur.
   * @param windows - Token ids.
   */
  constructor(
    backend: Backend,
    config: ModelConfig,
    embeddings: ReadonlyMap<number, Float32Array>,
    windows: readonly (readonly number[])[],
  ) {
    this.#backend = backend;
    this.#config = config;
    this.#streams = windows.map((ids) => {
      const width = config.hiddenSize;
      const rows = new Float32Array(ids.length * width);
      for (const [t, id] of ids.entries()) rows.set(embeddings.get(id)!, t * width);
      return tensor(backend, rows, [ids.length, width]);
    });
  }

  /**
   * What the attention of the next layer receives.
   *
   * @param norm - The weight of its norm.
   */
  inputs(norm: HostTensor): LayerInputs & Disposable {
    const weight = tensor(this.#backend, norm.data, norm.shape);
    return { ...this.normalised(weight), [Symbol.dispose]: () => weight.dispose() };
  }

  /**
   * The windows as they are now, normalised.
   *
   * @param weight - Of the norm; it must live as long as what is returned is used.
   */
  normalised(weight: Tensor): LayerInputs {
    const eps = this.#config.normEps;
    return {
      backend: this.#backend,
      windows: this.#streams.length,
      positions: Math.max(...this.#streams.map(({ shape }) => shape[0]!)),
      at: (window) => rmsNorm(this.#streams[window]!, weight, { eps, offset: 0 }),
    };
  }

  /** The residual streams, `[T, D]` for each window; they live until the next step. */
  get streams(): readonly Tensor[] {
    return this.#streams;
  }

  /**
   * Passes a layer.
   *
   * @param layer - Which layer.
   * @param outputs - The outputs of its attention, `[T, D]` for each window, without a bias.
   * @param behind - The rest of it.
   */
  advance(layer: number, outputs: readonly Tensor[], behind: BehindAttention): void {
    const { outputBias } = behind;
    this.passAttention((window) => {
      const output = outputs[window]!;
      return outputBias ? add(output, outputBias) : output;
    });
    this.passFeedForward(layer, behind);
  }

  /**
   * Passes the attention of a layer.
   *
   * @param outputs - Its outputs `[T, D]` of a window, with their bias.
   */
  passAttention(outputs: (window: number) => Tensor): void {
    this.#step((stream, window) => add(stream, outputs(window)));
  }

  /**
   * Passes the feed-forward layer behind the attention.
   *
   * @param layer - Which layer.
   * @param behind - Its weights.
   */
  passFeedForward(
    layer: number,
    { norm, feedForward: dense }: Pick<BehindAttention, "norm" | "feedForward">,
  ): void {
    this.#step((stream) => {
      const h = rmsNorm(stream, norm, { eps: this.#config.normEps, offset: 0 });
      return add(stream, feedForward(h, { kind: "dense", ...dense }, this.#config, layer));
    });
  }

  #step(next: (stream: Tensor, window: number) => Tensor): void {
    for (const [window, stream] of this.#streams.entries()) {
      this.#streams[window] = scope(() => next(stream, window));
      stream.dispose();
    }
  }

  /** Frees the streams. */
  [Symbol.dispose](): void {
    for (const stream of this.#streams) stream.dispose();
    this.#streams = [];
  }
}

/**
 * Throws unless windows can calibrate a model.
 *
 * @param windows - Token ids.
 * @param config - The model.
 */
export function requireWindows(
  windows: readonly (readonly number[])[],
  { vocabSize, contextLength }: ModelConfig,
): void {
  if (windows.length === 0) fail(ArgumentError, "calibration", "there are no windows");
  for (const [index, ids] of windows.entries()) {
    // One token attends to itself only: there is nothing to learn from it.
    if (ids.length < 2 || ids.length > contextLength) {
      fail(
        ArgumentError,
        "calibration",
        `window ${index} has ${ids.length} tokens; it must have 2 to ${contextLength}`,
      );
    }
    const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (wrong === undefined) continue;
    const problem = `token id ${wrong} of window ${index} is not from 0 to ${vocabSize - 1}`;
    fail(ArgumentError, "calibration", problem);
  }
}
