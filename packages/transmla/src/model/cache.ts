import { ArgumentError, fail, StateError, type Backend } from "@transmla/core";

import { cacheBytes, cacheStreams, type CacheDType } from "./cache-size.ts";
import type { ModelConfig, RopeConfig } from "./config/model-config.ts";
import { LayerCache } from "./layer-cache.ts";
import { SequenceTables } from "./rope.ts";

/**
 * The state of one sequence: what every layer caches for the positions so far, in memory of a fixed capacity, and the
 * rotation tables of the positions. Made by {@link Model.createCache}; its holder disposes of it.
 */
export class KeyValueCache implements Disposable {
  #length = 0;
  readonly #config: ModelConfig;
  /** How cached numbers are stored. */
  readonly dtype: CacheDType;
  /** The most positions it can hold. */
  readonly capacity: number;
  /** One entry for each layer. */
  readonly layers: readonly LayerCache[];
  /** For each layer the rotation tables of positions 0 to capacity - 1, if it has positions. */
  readonly rotations: readonly (SequenceTables | undefined)[];

  /** @internal */
  constructor(backend: Backend, config: ModelConfig, capacity: number, dtype: CacheDType) {
    if (!Number.isInteger(capacity) || capacity < 1) {
      fail(ArgumentError, "cache", `capacity ${capacity} must be a positive integer`);
    }
    this.#config = config;
    this.dtype = dtype;
    this.capacity = capacity;
    const { attention } = config;
    this.layers = config.windows.map((window, layer) => {
      const layout = { ...cacheStreams(attention, layer), capacity, window, dtype };
      return new LayerCache(backend, layout, () => this.#length);
    });
    const tables = new Map<RopeConfig, SequenceTables>();
    this.rotations = config.ropes.map((rope) => {
      if (!rope) return undefined;
      const known = tables.get(rope) ?? new SequenceTables(backend, rope, capacity);
      tables.set(rope, known);
      return known;
    });
  }

  /** How many positions are cached. */
  get length(): number {
    return this.#length;
  }

  /**
   * The bytes that cached keys, values or latents take at full capacity. A layer with a window takes its window and 64
   * more positions at most. The rotation tables are not counted.
   */
  get bytes(): number {
    return cacheBytes(this.#config, this.capacity, this.dtype);
  }

  /** @internal Makes ready for more positions; throws unless they fit. */
  enter(count: number): void {
    if (this.#length + count > this.capacity) {
      fail(
        StateError,
        "cache",
        `${this.#length} cached positions and ${count} new ones exceed the capacity of ${this.capacity}`,
      );
    }
    for (const tables of new Set(this.rotations)) tables?.enter(this.#length, this.#length + count);
  }

  /** @internal Counts positions whose rows every layer has appended. */
  advance(count: number): void {
    this.#length += count;
  }

  /**
   * Whether the sequence can be rolled back to a length. A layer with a window forgets what it no longer reaches; the
   * start of the sequence can always be returned to.
   *
   * @param length - From 0 to `length`.
   */
  holds(length: number): boolean {
    return length <= this.#length && this.layers.every((layer) => layer.holds(length));
  }

  /**
   * Forgets the last positions.
   *
   * @param length - How many positions stay; {@link holds} tells whether they can.
   */
  rollback(length: number): void {
    if (!Number.isInteger(length) || length < 0 || length > this.#length) {
      fail(ArgumentError, "cache", `cannot roll back from ${this.#length} to ${length} positions`);
    }
    if (!this.holds(length)) {
      const problem = `cannot roll back from ${this.#length} to ${length} positions: a window has moved on; roll back to 0`;
      fail(ArgumentError, "cache", problem);
    }
    this.#length = length;
    if (length === 0) for (const layer of this.layers) layer.clear();
  }

  /** Frees the memory. */
  [Symbol.dispose](): void {
    for (const layer of this.layers) for (const tensor of layer.tensors) tensor.dispose();
    for (const tables of new Set(this.rotations)) tables?.[Symbol.dispose]();
  }
}
