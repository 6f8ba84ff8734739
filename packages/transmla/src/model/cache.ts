import {
  assign,
  ArgumentError,
  empty,
  fail,
  StateError,
  type Backend,
  type DType,
  type Tensor,
} from "@transmla/core";

import type { AttentionConfig, ModelConfig, RopeConfig } from "./config.ts";
import { SequenceTables } from "./rope.ts";

/** What one layer remembers of a sequence: named streams of `[capacity, G, width]`. */
export class LayerCache {
  readonly #streams: ReadonlyMap<string, Tensor>;
  readonly #length: () => number;

  /** @internal */
  constructor(streams: ReadonlyMap<string, Tensor>, length: () => number) {
    this.#streams = streams;
    this.#length = length;
  }

  /**
   * Writes the new rows of a stream behind the ones that are there.
   *
   * @param stream - `keys`, `values` or `latent`.
   * @param rows - `[T, G, width]`.
   * @returns A view of all rows so far, `[S, G, width]`.
   */
  append(stream: string, rows: Tensor): Tensor {
    const whole =
      this.#streams.get(stream) ?? fail(StateError, "cache", `there is no stream "${stream}"`);
    const start = this.#length();
    const end = start + rows.shape[0]!;
    using window = whole.slice(0, start, end);
    assign(window, rows);
    return whole.slice(0, 0, end);
  }

  /** The memory of all streams. */
  get tensors(): Iterable<Tensor> {
    return this.#streams.values();
  }
}

/**
 * The state of one sequence: what every layer caches for the positions so far, in memory of a fixed capacity, and the
 * rotation tables of the positions. Made by {@link Model.createCache}; its holder disposes of it.
 */
export class KeyValueCache implements Disposable {
  #length = 0;
  /** The most positions it can hold. */
  readonly capacity: number;
  /** One entry for each layer. */
  readonly layers: readonly LayerCache[];
  /** For each layer the rotation tables of positions 0 to capacity - 1, if it has positions. */
  readonly rotations: readonly (SequenceTables | undefined)[];

  /** @internal */
  constructor(backend: Backend, config: ModelConfig, capacity: number, dtype: DType) {
    if (!Number.isInteger(capacity) || capacity < 1) {
      fail(ArgumentError, "cache", `capacity ${capacity} must be a positive integer`);
    }
    this.capacity = capacity;
    this.layers = Array.from({ length: config.layers }, () => {
      const streams = Object.entries(cacheStreams(config.attention));
      const tensors = streams.map(([name, shape]): [string, Tensor] => [
        name,
        empty(backend, [capacity, ...shape], dtype),
      ]);
      return new LayerCache(new Map(tensors), () => this.#length);
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

  /** The bytes that cached keys, values or latents take at full capacity; the rotation tables are not counted. */
  get bytes(): number {
    let total = 0;
    for (const layer of this.layers) {
      for (const { size, dtype } of layer.tensors) total += size * (dtype === "f32" ? 4 : 2);
    }
    return total;
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
   * Forgets the last positions.
   *
   * @param length - How many positions stay, from 0 to `length`.
   */
  rollback(length: number): void {
    if (!Number.isInteger(length) || length < 0 || length > this.#length) {
      fail(ArgumentError, "cache", `cannot roll back from ${this.#length} to ${length} positions`);
    }
    this.#length = length;
  }

  /** Frees the memory. */
  [Symbol.dispose](): void {
    for (const layer of this.layers) for (const tensor of layer.tensors) tensor.dispose();
    for (const tables of new Set(this.rotations)) tables?.[Symbol.dispose]();
  }
}

/** The streams of a layer's cache, with heads and width of each. */
function cacheStreams(
  attention: AttentionConfig,
): Readonly<Record<string, readonly [heads: number, width: number]>> {
  switch (attention.kind) {
    case "grouped": {
      const { kvHeads, headDim } = attention;
      return { keys: [kvHeads, headDim], values: [kvHeads, headDim] };
    }
    case "factored":
      return { keys: [1, attention.keyRank], values: [1, attention.valueRank] };
    case "latent":
      return { latent: [1, attention.latentRank + attention.ropeDim] };
  }
}
