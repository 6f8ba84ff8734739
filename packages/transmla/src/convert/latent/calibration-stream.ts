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
import type { DenseWeights, Linear } from "../../model/weights.ts";
import { zeros, type HostTensor } from "../host-tensor.ts";
import { owned } from "./algebra/device.ts";
import type { LayerInputs } from "./source-layer.ts";

/** What a layer does behind its attention. */
export interface BehindAttention {
  /** Added to the outputs of the attention. */
  readonly outputBias?: HostTensor | undefined;
  /** The weight of the norm between the branches. */
  readonly norm: HostTensor;
  readonly feedForward: DenseWeights<HostTensor>;
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
   * @param embeddings - `[vocab, D]`.
   * @param windows - Token ids.
   */
  constructor(
    backend: Backend,
    config: ModelConfig,
    embeddings: HostTensor,
    windows: readonly (readonly number[])[],
  ) {
    this.#backend = backend;
    this.#config = config;
    this.#streams = windows.map((ids) => {
      const width = config.hiddenSize;
      const rows = new Float32Array(ids.length * width);
      for (const [t, id] of ids.entries()) {
        rows.set(embeddings.data.subarray(id * width, (id + 1) * width), t * width);
      }
      return tensor(backend, rows, [ids.length, width]);
    });
  }

  /**
   * What the attention of the next layer receives.
   *
   * @param norm - The weight of its norm.
   */
  inputs(norm: HostTensor): LayerInputs & Disposable {
    const eps = this.#config.normEps;
    const weight = tensor(this.#backend, norm.data, norm.shape);
    return {
      backend: this.#backend,
      windows: this.#streams.length,
      positions: Math.max(...this.#streams.map(({ shape }) => shape[0]!)),
      at: (window) => rmsNorm(this.#streams[window]!, weight, { eps, offset: 0 }),
      [Symbol.dispose]: () => weight.dispose(),
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
    using bias = tensor(this.#backend, outputBias(behind), [this.#config.hiddenSize]);
    this.passAttention((_, window) => add(outputs[window]!, bias));
    this.passFeedForward(layer, behind);
  }

  /**
   * Passes the attention of a layer.
   *
   * @param outputs - Its outputs `[T, D]` of a stream, with their bias.
   */
  passAttention(outputs: (stream: Tensor, window: number) => Tensor): void {
    this.#step((stream, window) => add(stream, outputs(stream, window)));
  }

  /**
   * Passes the feed-forward layer behind the attention.
   *
   * @param layer - Which layer.
   * @param behind - Its weights.
   */
  passFeedForward(layer: number, { norm, feedForward: { gate, up, down } }: BehindAttention): void {
    const upload = ({ shape, data }: HostTensor): Tensor => tensor(this.#backend, data, shape);
    using weights = owned(() => ({
      norm: upload(norm),
      gate: upload(gate.weight),
      up: upload(up.weight),
      down: upload(down.weight),
    }));
    const linear = (weight: Tensor): Linear<Tensor> => ({ weight, bias: undefined });
    const dense = {
      kind: "dense" as const,
      gate: linear(weights.gate),
      up: linear(weights.up),
      down: linear(weights.down),
    };
    this.#step((stream) => {
      const h = rmsNorm(stream, weights.norm, { eps: this.#config.normEps, offset: 0 });
      return add(stream, feedForward(h, dense, this.#config, layer));
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
 * The bias of the outputs of a layer's attention, `[D]`: zeros where it has none.
 *
 * @param behind - What the layer does behind its attention.
 */
export function outputBias(behind: BehindAttention): Float64Array {
  return (behind.outputBias ?? zeros(behind.norm.data.length)).data;
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
    if (ids.length === 0 || ids.length > contextLength) {
      fail(
        ArgumentError,
        "calibration",
        `window ${index} has ${ids.length} tokens; it must have 1 to ${contextLength}`,
      );
    }
    const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (wrong === undefined) continue;
    const problem = `token id ${wrong} of window ${index} is not from 0 to ${vocabSize - 1}`;
    fail(ArgumentError, "calibration", problem);
  }
}
