import { add, mul, scope, sub, sum, tensor, unary, type Tensor } from "@transmla/core";

import { layerPrefix } from "../../../model/bind-weights.ts";
import type { ModelConfig } from "../../../model/config/model-config.ts";
import { asMatrix, fromMatrix, scaled } from "../../host-tensor.ts";
import { owned } from "../algebra/device.ts";
import { CalibrationStream, type BehindAttention } from "../calibration-stream.ts";
import { calibrateLayer } from "../convert-layer.ts";
import { LatentRun, type Goal, type LatentRunOptions, type VisitedLayer } from "../latent-run.ts";
import type { LayerStore, StoredLayer } from "../layer-store.ts";
import type { CompleteRecipe } from "../recipe.ts";
import {
  attentionOutputs,
  project,
  uploadAttention,
  type LayerInputs,
  type SourceAttention,
} from "../source-layer.ts";
import type { SourceLayers } from "../source-layers.ts";
import { refitFeedForward } from "./feed-forward-refit.ts";
import { uploadStored } from "./stored-attention.ts";

// Layers in their order, each on the inputs that the converted layers before it give. What it should do is taken from
// the original model on the same windows: its logits and attention, and a residual stream that both branches are fitted
// to, so that a layer makes up for what those before it have lost. Tokens count by the inverse of their mean square,
// because that is what the next norm divides by.

/** The output matrix of the feed-forward layer of a layer, by its name below that of the layer. */
const DOWN = "mlp.down_proj.weight";

/** What a refined run needs. */
interface RefinedRunOptions extends LatentRunOptions {
  /** The ridge of the refit of both output matrices, times the mean diagonal. */
  readonly ridge: number;
  /** The configuration of the result, as far as it is known. */
  readonly result: () => ModelConfig;
  /** The factor of its residual stream. */
  readonly residual: number;
  /** Where the layers of a run that was cut off are. */
  readonly store: LayerStore | undefined;
}

/** The windows in the original model and in the converted one, between two layers. */
type Streams = Readonly<Record<"original" | "converted", CalibrationStream>>;

/** Visits the attention of a model layer by layer. Memory holds one layer and two residual streams of the windows. */
class RefinedRun implements Disposable {
  readonly #config: ModelConfig;
  readonly #layers: SourceLayers;
  readonly #options: RefinedRunOptions;
  readonly #visit: (layer: VisitedLayer) => Promise<StoredLayer>;
  #streams: Streams | undefined;
  #next = 0;

  /**
   * @param config - The original model, LLaMA architecture.
   * @param layers - Its weights.
   * @param options - The windows, and what layers become a part of.
   * @param visit - Converts the attention of a layer.
   */
  constructor(
    config: ModelConfig,
    layers: SourceLayers,
    options: RefinedRunOptions,
    visit: (layer: VisitedLayer) => Promise<StoredLayer>,
  ) {
    this.#config = config;
    this.#layers = layers;
    this.#options = options;
    this.#visit = visit;
  }

  /**
   * Converts a layer. Those before it that were converted by a run that was cut off are run as they were stored, so that
   * both streams are the same to the bit.
   *
   * @param index - Which layer; not one that was converted or passed.
   */
  async convert(index: number): Promise<StoredLayer> {
    while (this.#next < index) {
      const kept = await this.#options.store?.read(this.#next);
      if (!kept) throw new TypeError(`convert: layer ${this.#next} was skipped`);
      await this.#run(kept);
    }
    return await this.#run();
  }

  /** Takes both streams past the next layer, which is converted unless it was before. */
  async #run(kept?: StoredLayer): Promise<StoredLayer> {
    const index = this.#next++;
    const { backend, residual } = this.#options;
    const { original, converted } = await this.#start();
    const source = await this.#layers.attention(index);
    const norm = await this.#layers.norm(index);
    using behind = await this.#layers.behindAttention(index, backend);
    using teacher = original.inputs(norm);
    using inputs = converted.inputs(norm);
    using outputs = originalOutputs(source, teacher);
    const { outputBias: bias } = behind;
    const biased = (rows: Tensor): Tensor => (bias ? add(rows, bias) : rows);
    const output = (window: number): Tensor => biased(outputs.windows[window]!);
    const goal = (window: number): Goal =>
      this.#goal(
        () => add(original.streams[window]!, output(window)),
        () => biased(converted.streams[window]!),
      );
    const stored = kept ?? (await this.#convert(index, source, { inputs, teacher, goal }));
    await this.#passAttention(converted, index, stored, inputs);
    original.passAttention(output);
    original.passFeedForward(index, behind);
    const whole = kept ?? (await this.#convertFeedForward(index, stored, behind));
    const { shape, data } = scaled(whole.tensors[DOWN]!, 1 / residual);
    using weight = tensor(backend, data, shape);
    const feedForward = { ...behind.feedForward, down: { weight, bias: undefined } };
    converted.passFeedForward(index, { norm: behind.norm, feedForward });
    return whole;
  }

  async #start(): Promise<Streams> {
    const { backend, windows } = this.#options;
    if (!this.#streams) {
      const embeddings = await this.#layers.embeddings(windows);
      const stream = (): CalibrationStream =>
        new CalibrationStream(backend, this.#config, embeddings, windows);
      this.#streams = { original: stream(), converted: stream() };
    }
    return this.#streams;
  }

  async #convert(
    index: number,
    original: SourceAttention,
    layer: Pick<VisitedLayer, "inputs" | "teacher" | "goal">,
  ): Promise<StoredLayer> {
    const { backend, firstKey, linear } = this.#options;
    const linalg = { blas: backend.blas };
    const how = { linalg, firstKey, linear };
    using calibrated = await calibrateLayer(original, layer.inputs, how);
    const { source } = calibrated;
    const { streams } = this.#streams!.converted;
    return await this.#visit({ index, ...layer, source, calibrated, streams, linalg });
  }

  /** Runs the attention of a layer as it is stored. */
  async #passAttention(
    converted: CalibrationStream,
    index: number,
    stored: StoredLayer,
    inputs: LayerInputs,
  ): Promise<void> {
    const { backend, result, residual } = this.#options;
    const model = { config: result(), residual, layers: this.#layers };
    using own = await uploadStored(backend, model, index, stored, inputs.positions);
    converted.passAttention((window) => own.outputs(inputs.at(window)));
  }

  /** Adds the output matrix of the feed-forward layer, for what the converted stream is behind its attention. */
  async #convertFeedForward(
    index: number,
    stored: StoredLayer,
    { norm, feedForward }: BehindAttention,
  ): Promise<StoredLayer> {
    const { original, converted } = this.#streams!;
    const { backend, ridge, residual } = this.#options;
    const down = await refitFeedForward(
      feedForward,
      asMatrix(await this.#layers.read(layerPrefix(index) + DOWN)),
      converted.normalised(norm),
      (window) =>
        this.#goal(
          () => original.streams[window]!,
          () => converted.streams[window]!,
        ),
      { activation: this.#config.activation, ridge, blas: backend.blas },
    );
    const tensors = { ...stored.tensors, [DOWN]: scaled(fromMatrix(down), residual) };
    return { ...stored, tensors };
  }

  /** What a branch must add to the converted stream for the original one to come out. */
  #goal(original: () => Tensor, converted: () => Tensor): Goal {
    return owned(() => {
      const next = original();
      const squares = sum(mul(next, next));
      const inverse = unary("rsqrt", squares, 1 / next.shape[1]!, this.#config.normEps);
      return { target: sub(next, converted()), weights: mul(inverse, inverse) };
    });
  }

  /** Frees the residual streams. */
  [Symbol.dispose](): void {
    this.#streams?.original[Symbol.dispose]();
    this.#streams?.converted[Symbol.dispose]();
    this.#streams = undefined;
  }
}

/** What a run of layers becomes a part of. */
export interface LayerRunOptions extends LatentRunOptions, Omit<RefinedRunOptions, "ridge"> {
  readonly recipe: Pick<CompleteRecipe, "refine" | "outputRidge">;
}

/**
 * The run of a recipe: each layer by itself, or behind converted ones.
 *
 * @param config - The original model.
 * @param layers - Its weights.
 * @param options - The recipe, the windows, and what layers become a part of.
 * @param visit - Converts the attention of a layer.
 */
export function layerRun(
  config: ModelConfig,
  layers: SourceLayers,
  { recipe: { refine, outputRidge: ridge }, ...options }: LayerRunOptions,
  visit: (layer: VisitedLayer) => Promise<StoredLayer>,
): Disposable & { convert(index: number): Promise<StoredLayer> } {
  return refine === "none" || ridge === "none"
    ? new LatentRun(config, layers, options, visit)
    : new RefinedRun(config, layers, { ...options, ridge }, visit);
}

/** The outputs `[T, D]` of the original attention for each window, without a bias. */
function originalOutputs(
  source: SourceAttention,
  inputs: LayerInputs,
): Disposable & { readonly windows: readonly Tensor[] } {
  const c = source.attention;
  using tensors = uploadAttention(inputs.backend, source, inputs.positions);
  const windows = Array.from({ length: inputs.windows }, (_, window) =>
    scope(() => attentionOutputs(project(inputs.at(window), tensors, c), tensors, c)),
  );
  return {
    windows,
    [Symbol.dispose]: () => {
      for (const outputs of windows) outputs.dispose();
    },
  };
}
