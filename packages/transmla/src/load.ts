import type { Backend, Tensor } from "@transmla/core";

import { readAssets } from "./assets.ts";
import { readJson, type Folder } from "./checkpoint/folder.ts";
import { openCheckpoint } from "./checkpoint/shards.ts";
import { ggufFolder } from "./gguf/folder.ts";
import { loadWeight, requireRoom, type WeightDType } from "./load-weights.ts";
import { parseConfig } from "./model/config/families.ts";
import type { HuggingFaceConfig, ModelConfig } from "./model/config/model-config.ts";
import { Model } from "./model/model.ts";
import type { ActivationDType } from "./model/transformer.ts";

/** A configuration is a few kilobytes; token names in some make it large. */
const MAX_CONFIG_BYTES = 10_000_000;

/** How far a long operation is. */
export interface Progress {
  /** What is done so far. */
  readonly done: number;
  /** Of how much. */
  readonly total: number;
  /** What is counted. */
  readonly unit: "bytes" | "numbers" | "tensors" | "layers" | "windows" | "tokens";
}

/** Choices of {@link loadModel}. */
export interface LoadOptions {
  /** Where the weights go. */
  readonly backend: Backend;
  /**
   * The widest form in which matrices are held. `f32`, when absent, rounds nothing: what a checkpoint stores in 16 bits, or
   * in blocks of GGUF's `Q8_0` or `Q4_0`, stays in that form. `bf16`, `q8` and `q4` round what is stored wider, `q4` the
   * embeddings and the output matrix to `q8` only; matrices whose last axis is not a multiple of 32 are not put into blocks,
   * but are bf16. Vectors and routers are always f32.
   */
  readonly weights?: WeightDType | undefined;
  /**
   * How activations, the numbers that layers compute and pass on, are stored: `f32` when absent. `f16` halves their memory
   * and rounds each to 11 bits; arithmetic, the choice of experts and logits stay f32. It is for models that are known to run
   * in f16: beyond 65504 an activation is infinite, the norm after it makes that NaN, and `generate` throws at such logits.
   */
  readonly activations?: ActivationDType | undefined;
  /** Called after each weight. */
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Called as a model of the hub is downloaded. */
  readonly onDownload?: ((progress: Progress) => void) | undefined;
  /** Stops between weights; what was loaded is freed. */
  readonly signal?: AbortSignal | undefined;
}

/** The path of a GGUF file: its folder, if it is named, and its name. */
const GGUF_PATH = /^(?:(.*)[/\\])?([^/\\]+\.gguf)$/is;

/**
 * A folder or a GGUF file by its path, or a model of the hub by its name, `hf:org/name`, in Node; or a folder as it is.
 *
 * @param from - A path, a name or a folder.
 * @param options - Of the download: progress, abort, and whether weights are wanted.
 */
export async function asFolder(
  from: string | Folder,
  options: Pick<LoadOptions, "onDownload" | "signal"> & { readonly weights?: boolean } = {},
): Promise<Folder> {
  if (typeof from !== "string") return from;
  if (from.startsWith("hf:")) {
    const { hubFolder } = await import("./hub/snapshot.ts"); // not in browsers
    const { onDownload: onProgress, signal, weights } = options;
    return hubFolder(from, { onProgress, signal, weights });
  }
  const { diskFolder } = await import("./checkpoint/disk.ts"); // not in browsers
  const [, parent = ".", name] = GGUF_PATH.exec(from) ?? [];
  return name === undefined ? diskFolder(from) : ggufFolder(diskFolder(parent || "/"), name);
}

/** A configuration as it is stored and as it is understood. */
export interface ReadConfig {
  /** The parsed `config.json`. */
  readonly json: HuggingFaceConfig;
  /** What this library makes of it. */
  readonly config: ModelConfig;
}

/**
 * Reads the configuration of a model without its weights.
 *
 * @param folder - The model.
 */
export async function readConfig(folder: Folder): Promise<ReadConfig> {
  const json = await readJson(folder, "config.json", MAX_CONFIG_BYTES);
  const config = parseConfig(json, `${folder.path}/config.json`);
  return { json: json as HuggingFaceConfig, config };
}

/**
 * Loads a model from a Hugging Face folder, `config.json`, safetensors in one file or in shards, and the tokenizer if
 * there is one, or from a GGUF file. Weights are held as they
 * are stored, or rounded on the way.
 *
 * @param from - A path of a folder or of a `.gguf` file, or `hf:org/name@revision` on the hub (both Node), or a folder of
 *   files from anywhere.
 * @param options - The backend, progress and abort.
 * @returns A model that the caller disposes of.
 * @throws FormatError or UnsupportedError that names file, field and value; BackendError, before a weight is read, when the
 *   weights do not fit, with the forms that do.
 *
 * @example
 * ```ts
 * import { cpuBackend } from "@transmla/backend-cpu";
 * import { bundledModel, generate, loadModel } from "transmla";
 * using model = await loadModel(bundledModel, { backend: await cpuBackend() });
 * let text = "";
 * for await (const piece of generate(model, "ROMEO:", { maxTokens: 8, temperature: 0 })) text += piece.text;
 * console.log(model.parameters); // => 2853312
 * ```
 */
export async function loadModel(from: string | Folder, options: LoadOptions): Promise<Model> {
  const { onDownload, signal } = options;
  const folder = await asFolder(from, { onDownload, signal });
  const { json } = await readConfig(folder);
  const assets = await readAssets(folder, json);
  const source = await openCheckpoint(folder);
  const tensors = new Map<string, Tensor>();
  try {
    const sizes = [...source.tensors.values()].map(({ shape }) =>
      shape.reduce((product, size) => product * size, 1),
    );
    const total = sizes.reduce((sum, size) => sum + size, 0);
    const { backend, weights = "f32" } = options;
    requireRoom(backend, source, weights, folder.path);
    let done = 0;
    for (const name of source.tensors.keys()) {
      signal?.throwIfAborted();
      const weight = await loadWeight(backend, source, name, weights);
      tensors.set(name, weight);
      done += weight.size;
      options.onProgress?.({ done, total, unit: "numbers" });
    }
  } catch (error) {
    for (const loaded of tensors.values()) loaded.dispose();
    throw error;
  } finally {
    await source.close();
  }
  return new Model(options.backend, json, tensors, assets, options.activations);
}
