import {
  ArgumentError,
  assign,
  empty,
  fail,
  FormatError,
  StateError,
  tensor,
  type Backend,
  type Tensor,
} from "@transmla/core";

import type { ModelAssets } from "../assets.ts";
import { bindModel } from "./bind-weights.ts";
import type { CacheDType } from "./cache-size.ts";
import { KeyValueCache } from "./cache.ts";
import { parseConfig } from "./config/families.ts";
import type { HuggingFaceConfig, ModelConfig } from "./config/model-config.ts";
import { fusedParts } from "./fused-projections.ts";
import { NamedTensors } from "./named-tensors.ts";
import { forward, type ActivationDType, type ForwardOptions } from "./transformer.ts";
import type { ModelWeights } from "./weights.ts";

/** Buffers that old checkpoints store and every reader recomputes. */
const recomputed = /\.rotary_emb\.inv_freq$/;

/** Replaces fused projections by views of their parts. */
function splitFused(tensors: Map<string, Tensor>, config: ModelConfig): void {
  for (const [name, fused] of Array.from(tensors)) {
    const parts = fusedParts(name, config);
    if (!parts || fused.shape[0] !== parts.at(-1)!.end) continue;
    for (const part of parts) tensors.set(part.name, fused.slice(0, part.start, part.end));
    tensors.delete(name);
    fused.dispose();
  }
}

/** A language model on a backend: its configuration, its weights, and what belongs to its text. */
export class Model implements Disposable {
  /** Where the weights live. */
  readonly backend: Backend;
  /** What the model is, as data. */
  readonly config: ModelConfig;
  /** The `config.json` it came from. */
  readonly huggingFaceConfig: HuggingFaceConfig;
  /** Tokenizer, chat template and generation defaults. */
  readonly assets: ModelAssets;
  /** How activations are stored. */
  readonly activations: ActivationDType;
  /** All weights by their name in the checkpoint. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly #weights: ModelWeights<Tensor>;
  readonly #stacks: Tensor[] = [];
  #disposed = false;

  /**
   * Takes over the tensors: the model disposes of them, also when it cannot be made.
   *
   * @param backend - Where the tensors live.
   * @param json - A parsed `config.json`.
   * @param tensors - All weights, under the names of Hugging Face checkpoints.
   * @param assets - What belongs to the text.
   * @param activations - How activations are stored: see {@link LoadOptions.activations}.
   * @throws FormatError when a weight is missing, has another shape, or is not used.
   */
  constructor(
    backend: Backend,
    json: HuggingFaceConfig,
    tensors: ReadonlyMap<string, Tensor>,
    assets: ModelAssets,
    activations: ActivationDType = "f32",
  ) {
    const named = new Map(tensors);
    this.backend = backend;
    this.tensors = named;
    this.huggingFaceConfig = json;
    this.assets = assets;
    this.activations = activations;
    try {
      this.config = parseConfig(json, `${assets.path ?? "model"}/config.json`);
      splitFused(named, this.config);
      const store = new NamedTensors(named, assets.path, (names) => this.#stack(names, named));
      this.#weights = bindModel(store, this.config);
      const unused = store.unused().filter((name) => !recomputed.test(name));
      if (unused.length > 0) {
        const more = unused.length > 5 ? ` and ${unused.length - 5} more` : "";
        fail(
          FormatError,
          assets.path ?? "weights",
          `${unused.slice(0, 5).join(", ")}${more} not used by a ${this.config.family} model`,
        );
      }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Moves the experts of a layer into one tensor; they stay reachable as views of it. */
  #stack(names: readonly string[], named: Map<string, Tensor>): Tensor {
    const { shape, dtype } = named.get(names[0]!)!;
    const [rows, cols] = shape as [number, number];
    const whole = empty(this.backend, [names.length, rows, cols], dtype);
    this.#stacks.push(whole);
    names.forEach((name, i) => {
      const expert = named.get(name)!;
      using window = whole.slice(0, i, i + 1);
      assign(window, expert);
      named.set(name, window.reshape([rows, cols]));
      expert.dispose();
    });
    return whole;
  }

  /** The number of weights. */
  get parameters(): number {
    let total = 0;
    for (const { size } of this.tensors.values()) total += size;
    return total;
  }

  /**
   * A cache for one sequence; the caller disposes of it.
   *
   * @param capacity - The most positions it can hold.
   * @param dtype - How cached numbers are stored: `bf16` halves the memory, `q8` leaves 9/32 of it.
   */
  createCache(
    capacity: number = this.config.contextLength,
    dtype: CacheDType = "f32",
  ): KeyValueCache {
    return new KeyValueCache(this.backend, this.config, capacity, dtype);
  }

  /**
   * Runs tokens through the model. Their keys and values, or latents, are appended to the cache.
   *
   * @param ids - At least one token id.
   * @param cache - The sequence so far, made by this model.
   * @param options - Which logits are wanted.
   * @returns Logits `[T, vocab]`, or `[1, vocab]` of the last position, f32; the caller disposes of them.
   */
  forward(ids: readonly number[], cache: KeyValueCache, options: ForwardOptions = {}): Tensor {
    if (this.#disposed) fail(StateError, "forward", "the model has been disposed of");
    if (ids.length === 0)
      fail(ArgumentError, "forward", "there are no tokens; a sequence needs at least one");
    for (const id of ids) {
      if (!Number.isInteger(id) || id < 0 || id >= this.config.vocabSize) {
        fail(
          ArgumentError,
          "forward",
          `token id ${id} is not from 0 to ${this.config.vocabSize - 1}`,
        );
      }
    }
    using tokens = tensor(this.backend, ids, [ids.length], "i32");
    return forward(tokens, this.#weights, this.config, cache, this.activations, options);
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    this.#disposed = true;
    for (const weight of [...this.tensors.values(), ...this.#stacks]) weight.dispose();
  }
}
