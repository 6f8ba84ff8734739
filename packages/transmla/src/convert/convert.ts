import { decode, encode, tensor, type Backend, type Tensor } from "@transmla/core";

import type { Folder } from "../checkpoint/folder.ts";
import type { GgufWritableType } from "../checkpoint/gguf/types.ts";
import type { OutputFolder } from "../checkpoint/output.ts";
import { openCheckpoint } from "../checkpoint/shards.ts";
import { elementCount, type TensorSource } from "../checkpoint/tensors.ts";
import { readConfig, type Progress } from "../load.ts";
import type { HuggingFaceConfig } from "../model/config/model-config.ts";
import { Model } from "../model/model.ts";
import { planConversion, type ConversionMethod, type WeightReader } from "./conversion.ts";
import type { OutputDType } from "./merged.ts";
import { modelWeights } from "./model-weights.ts";
import { folderWriter, ggufWriter } from "./model-writer.ts";

/** A method, and how its result is stored. */
export type ConvertOptions = ConversionMethod & {
  /** The dtype of the result; each weight is rounded to it once, from f64. `f32` when absent. */
  readonly dtype?: OutputDType | undefined;
  /** Where a method calibrates, and whose `blas` all methods compute with; {@link convert} takes the model's. */
  readonly backend?: Backend | undefined;
  /** Called after each tensor. */
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Stops between tensors; nothing is left behind. */
  readonly signal?: AbortSignal | undefined;
};

/** What rounding to the output dtype has cost. */
export interface Rounding {
  /** Tensors that the dtype holds exactly. */
  readonly exact: number;
  /** All tensors. */
  readonly tensors: number;
  /** The largest relative error of a tensor: ‖rounded - exact‖ / ‖exact‖. */
  readonly worst: number;
  /** The tensor that it occurs in. */
  readonly worstName: string | undefined;
}

/** What {@link convertCheckpoint} has written. */
export interface ConversionReport {
  /** The configuration of the result. */
  readonly config: HuggingFaceConfig;
  /** Weights in the source, and in the result. */
  readonly parameters: readonly [before: number, after: number];
  /** What rounding has cost. */
  readonly rounding: Rounding;
}

/**
 * Converts a loaded model to another form of attention, in f64 with one rounding.
 *
 * @param model - The source; it stays as it is.
 * @param options - The method.
 * @returns A model on the same backend, with the same tokenizer; the caller disposes of it.
 * @throws UnsupportedError when the method cannot express the model.
 *
 * @example
 * ```ts
 * import { cpuBackend } from "@transmla/backend-cpu";
 * import { bundledModel, convert, loadModel } from "transmla";
 * using model = await loadModel(bundledModel, { backend: await cpuBackend() });
 * using latent = await convert(model, { method: "merged" });
 * console.log(latent.config.attention.kind); // => "latent"
 * ```
 */
export async function convert(model: Model, options: ConvertOptions): Promise<Model> {
  const dtype = options.dtype ?? "f32";
  const conversion = planConversion(model.huggingFaceConfig, modelWeights(model), {
    ...options,
    backend: model.backend,
  });
  const tensors = new Map<string, Tensor>();
  try {
    for await (const { name, shape, pieces } of conversion.tensors()) {
      options.signal?.throwIfAborted();
      const rounded = new Float32Array(elementCount(shape));
      let at = 0;
      for await (const piece of pieces) {
        rounded.set(decode(encode(piece, dtype), dtype), at);
        at += piece.length;
      }
      tensors.set(name, tensor(model.backend, rounded, shape));
      options.onProgress?.({ done: tensors.size, total: conversion.plan.length, unit: "tensors" });
    }
  } catch (error) {
    for (const made of tensors.values()) made.dispose();
    throw error;
  }
  const { path: _, ...assets } = model.assets; // the result is in no folder
  return new Model(model.backend, conversion.config, tensors, assets, model.activations);
}

/** The weights of a checkpoint. */
function checkpointWeights(source: TensorSource): WeightReader {
  return {
    names: [...source.tensors.keys()],
    has: (name) => source.tensors.has(name),
    read: async (name) => ({
      shape: source.tensors.get(name)!.shape,
      data: await source.numbers(name),
    }),
    pieces: (name) => source.pieces(name),
  };
}

/** Choices of {@link convertCheckpoint}. */
export type ConvertCheckpointOptions = ConvertOptions & {
  /**
   * Writes one GGUF file for llama.cpp, `model.gguf`, in place of a folder, with matrices of this type and without regard
   * to `dtype`.
   */
  readonly gguf?: GgufWritableType | undefined;
};

/**
 * Converts a checkpoint to another, one layer at a time: memory holds the attention of one layer or a piece of another
 * tensor. Tokenizer and chat template are carried over, and in a folder the generation defaults.
 *
 * @param from - The source folder.
 * @param output - A new folder; it is committed at the end, and discarded when anything fails.
 * @param options - The method, the format, progress and abort.
 */
export async function convertCheckpoint(
  from: Folder,
  output: OutputFolder,
  options: ConvertCheckpointOptions,
): Promise<ConversionReport> {
  let source: TensorSource | undefined;
  try {
    const { json } = await readConfig(from);
    source = await openCheckpoint(from);
    const { gguf, dtype = "f32" } = options;
    const conversion = planConversion(json, checkpointWeights(source), {
      ...options,
      ...(gguf ? ({ dtype: "f32", target: "llama.cpp" } as const) : { dtype }),
    });
    const writer = gguf
      ? await ggufWriter(from, output, conversion, gguf)
      : await folderWriter(from, output, conversion, dtype);
    const rounding = new RoundingMeter();
    let done = 0;
    for await (const converted of conversion.tensors()) {
      options.signal?.throwIfAborted();
      rounding.add(converted.name, await writer.write(converted));
      done++;
      options.onProgress?.({ done, total: conversion.plan.length, unit: "tensors" });
    }
    await writer.close();
    await output.commit();
    const count = (shapes: Iterable<{ readonly shape: readonly number[] }>): number =>
      [...shapes].reduce((sum, { shape }) => sum + elementCount(shape), 0);
    return {
      config: conversion.config,
      parameters: [count(source.tensors.values()), count(conversion.plan)],
      rounding: rounding.report(),
    };
  } catch (error) {
    await output.discard();
    throw error;
  } finally {
    await source?.close();
  }
}

/** Accumulates what rounding costs. */
class RoundingMeter {
  #exact = 0;
  #tensors = 0;
  #worst = 0;
  #worstName: string | undefined;

  add(name: string, relative: number): void {
    this.#tensors++;
    this.#exact += Number(relative === 0);
    if (relative <= this.#worst) return;
    this.#worst = relative;
    this.#worstName = name;
  }

  report(): Rounding {
    return {
      exact: this.#exact,
      tensors: this.#tensors,
      worst: this.#worst,
      worstName: this.#worstName,
    };
  }
}
