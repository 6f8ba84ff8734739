import { attention, concat, matmul, scope, type Backend, type Tensor } from "@transmla/core";
import { identity, matrix, type Matrix } from "@transmla/core/linalg";

import type { GroupedAttention, ModelConfig } from "../../../model/config/model-config.ts";
import { unitPhases } from "../algebra/complex-pairs.ts";
import { accumulate, gram, readOut, RelativeError } from "../algebra/device.ts";
import { CalibrationStream } from "../calibration-stream.ts";
import { assembleLatent, latentHeads, uploadLatent, type LatentLayer } from "../latent-layer.ts";
import {
  project,
  uploadAttention,
  withBiasColumns,
  type AttentionTensors,
  type LayerInputs,
  type SourceAttention,
} from "../source-layer.ts";
import type { SourceLayers } from "../source-layers.ts";
import type { JointLatent } from "../steps/joint-latent.ts";
import { factorQueries, inputMoment } from "../steps/query-factors.ts";
import { balancedLatent, keyToValueRatio, separateLatent } from "./balanced-latent.ts";
import type { CompletePublished } from "./recipe.ts";
import { rotateKeys, type RotatedKeys } from "./rotated-keys.ts";

// The published algorithm calibrates twice: the rotation of the keys on the original model, and their principal
// components on the model whose keys have lost RoPE but for the slots, in all layers before.

/** What a run needs. */
export interface PublishedRunOptions {
  /** Where both models run over the calibration windows. */
  readonly backend: Backend;
  /** Token ids. */
  readonly windows: readonly (readonly number[])[];
  readonly recipe: CompletePublished;
}

/** A converted layer and the steps to it. */
export interface PublishedLayer {
  readonly layer: LatentLayer;
  /** E[yᵀy], y = [keys before RoPE ; values], of the model with RoPE in part. */
  readonly uniform: Matrix;
  readonly keys: RotatedKeys;
  readonly latent: JointLatent;
  /** `Σ |y' - y|² / Σ |y|²` of the attention output over the calibration tokens, on the inputs of the original. */
  readonly error: number;
}

/** Converts the attention of a model layer by layer. Memory holds one layer and two residual streams of the windows. */
export class PublishedRun implements Disposable {
  readonly #config: ModelConfig;
  readonly #layers: SourceLayers;
  readonly #options: PublishedRunOptions;
  #original: CalibrationStream | undefined;
  #partial: CalibrationStream | undefined;
  #next = 0;

  /**
   * @param config - The original model, LLaMA architecture without biases.
   * @param layers - Its weights.
   * @param options - Windows and recipe.
   */
  constructor(config: ModelConfig, layers: SourceLayers, options: PublishedRunOptions) {
    this.#config = config;
    this.#layers = layers;
    this.#options = options;
  }

  /**
   * Converts a layer, and those before it that were not.
   *
   * @param index - Which layer; not one that was converted.
   */
  async convert(index: number): Promise<PublishedLayer> {
    while (this.#next < index) await this.#convertNext();
    return await this.#convertNext();
  }

  async #convertNext(): Promise<PublishedLayer> {
    const index = this.#next++;
    const { backend, windows, recipe } = this.#options;
    if (!this.#original || !this.#partial) {
      const embeddings = await this.#layers.embeddings(windows);
      this.#original = new CalibrationStream(backend, this.#config, embeddings, windows);
      this.#partial = new CalibrationStream(backend, this.#config, embeddings, windows);
    }
    const source = await this.#layers.attention(index);
    const norm = await this.#layers.norm(index);
    using inputs = this.#original.inputs(norm);
    using partialInputs = this.#partial.inputs(norm);
    using tensors = uploadAttention(backend, source, inputs.positions);
    const linalg = { blas: backend.blas };

    const found = await keyValueMoment(inputs, tensors, source.attention);
    const keys = rotateKeys(found, source.attention, recipe.ropeDim, recipe.fold, linalg);
    const uniform = await keyValueMoment(partialInputs, tensors, source.attention);
    const alpha =
      recipe.balance === "none" ? 1 : keyToValueRatio(uniform, keys.rest, linalg) / recipe.balance;
    const latent = balancedLatent(uniform, keys.rest, alpha, recipe.latentRank, linalg);
    const augmented = withBiasColumns(source);
    // A bias of queries passes through a latent of them, which has one.
    const direct = source.biases && { down: augmented.q, up: identity(augmented.q.rows) };
    const factors =
      recipe.queryRank === "full"
        ? direct
        : factorQueries(
            source.q,
            await inputMoment(partialInputs),
            recipe.queryRank,
            undefined,
            linalg,
          );
    const assemble = (of: JointLatent, q: Matrix): LatentLayer => {
      const phases = Array.from({ length: source.attention.heads }, () =>
        unitPhases(source.frequencies.length),
      );
      return assembleLatent({ ...augmented, q }, keys.slots, phases, of, linalg);
    };
    const layer = {
      ...assemble(latent, factors?.up ?? source.q),
      queryDown: factors?.down,
      outputBias: source.biases?.o,
    };
    using outputs = held(originalOutputs(inputs, tensors, source.attention));
    using converted = held(latentOutputs(inputs, tensors, layer, source, keys));
    const error = await relativeError(converted.tensors, outputs.tensors);
    if (this.#next < this.#config.layers) {
      using behind = await this.#layers.behindAttention(index, backend);
      const partial = assemble(separateLatent(keys.rest), augmented.q);
      using partialOutputs = held(latentOutputs(partialInputs, tensors, partial, source, keys));
      this.#original.advance(index, outputs.tensors, behind);
      this.#partial.advance(index, partialOutputs.tensors, behind);
    }
    return { layer, uniform, keys, latent, error };
  }

  /** Frees the residual streams. */
  [Symbol.dispose](): void {
    this.#original?.[Symbol.dispose]();
    this.#partial?.[Symbol.dispose]();
    this.#original = this.#partial = undefined;
  }
}

/** E[yᵀy] over all tokens, y = [keys before RoPE ; values]. */
async function keyValueMoment(
  inputs: LayerInputs,
  tensors: AttentionTensors,
  c: GroupedAttention,
): Promise<Matrix> {
  const width = 2 * c.kvHeads * c.headDim;
  const moment = matrix(width, width);
  let tokens = 0;
  for (let window = 0; window < inputs.windows; window++) {
    using x = inputs.at(window);
    const { sums } = await readOut(() => {
      const { keys, values } = project(x, tensors, c);
      const y = concat([keys, values], 1).reshape([x.shape[0]!, width]);
      return { sums: gram(y, y) };
    });
    accumulate(moment.data, sums);
    tokens += x.shape[0]!;
  }
  return { ...moment, data: moment.data.map((sum) => sum / tokens) };
}

/** Tensors that `using` frees. */
function held(tensors: readonly Tensor[]): Disposable & { readonly tensors: readonly Tensor[] } {
  return {
    tensors,
    [Symbol.dispose]: () => {
      for (const tensor of tensors) tensor.dispose();
    },
  };
}

/** The outputs `[T, D]` of some attention for each window. */
function outputsOf(
  inputs: LayerInputs,
  { o }: AttentionTensors,
  heads: (x: Tensor) => Tensor,
): Tensor[] {
  return Array.from({ length: inputs.windows }, (_, window) => {
    using x = inputs.at(window);
    return scope(() => matmul(heads(x), o.transpose()));
  });
}

function originalOutputs(
  inputs: LayerInputs,
  tensors: AttentionTensors,
  c: GroupedAttention,
): Tensor[] {
  return outputsOf(inputs, tensors, (x) => {
    const { rotatedQueries, rotatedKeys, values } = project(x, tensors, c);
    const heads = attention(rotatedQueries, rotatedKeys, values, { scale: c.scale, causal: true });
    return heads.reshape([x.shape[0]!, c.heads * c.headDim]);
  });
}

function latentOutputs(
  inputs: LayerInputs,
  tensors: AttentionTensors,
  layer: LatentLayer,
  source: SourceAttention,
  { slots }: RotatedKeys,
): Tensor[] {
  const frequencies = slots.pairs.map((pair) => source.frequencies[pair]!);
  using converted = uploadLatent(inputs.backend, layer, frequencies, inputs.positions);
  return outputsOf(inputs, tensors, (x) => latentHeads(x, converted, source.attention));
}

async function relativeError(
  found: readonly Tensor[],
  expected: readonly Tensor[],
): Promise<number> {
  const error = new RelativeError();
  for (const [i, target] of expected.entries()) await error.add(found[i]!, target);
  return error.value;
}
