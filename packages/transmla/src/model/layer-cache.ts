import { assign, empty, fail, StateError, type Backend, type Tensor } from "@transmla/core";

import { heldPositions, storedWidth, type CacheDType, type CacheStreams } from "./cache-size.ts";

/** How a layer's streams are laid out. */
export interface LayerCacheLayout extends CacheStreams {
  /** The most positions of the sequence. */
  readonly capacity: number;
  /** How many positions a query sees; `undefined` for all. */
  readonly window: number | undefined;
  /** How cached numbers are stored. */
  readonly dtype: CacheDType;
}

/** Rows of one stream, `[rows, G, width]`, of which the first belongs to the position `start`. */
interface Stream {
  readonly rows: Tensor;
  start: number;
}

/** Rows to be written, whose last block may be wider than they are. */
function emptyRows(
  backend: Backend,
  [count, heads, width]: readonly [number, number, number],
  dtype: CacheDType,
): Tensor {
  using whole = empty(backend, [count, heads, storedWidth(width, dtype)], dtype);
  return whole.slice(2, 0, width);
}

/** What one layer remembers of a sequence: all positions, or those that its window still reaches. */
export class LayerCache {
  readonly #streams: ReadonlyMap<string, Stream>;
  readonly #first: Tensor | undefined;
  readonly #window: number | undefined;
  readonly #length: () => number;
  readonly #dtype: CacheDType;

  /** @internal */
  constructor(backend: Backend, layout: LayerCacheLayout, length: () => number) {
    const { streams, first, capacity, window, dtype } = layout;
    const rows = heldPositions(capacity, window);
    this.#window = window;
    this.#length = length;
    this.#dtype = dtype;
    this.#streams = new Map(
      Object.entries(streams).map(([name, shape]) => [
        name,
        { rows: emptyRows(backend, [rows, ...shape], dtype), start: 0 },
      ]),
    );
    this.#first = first && emptyRows(backend, [1, ...first], dtype);
  }

  /** The first position that the next token sees: 0 without a window. */
  get firstSeen(): number {
    return this.#firstSeenAt(this.#length());
  }

  #firstSeenAt(length: number): number {
    return this.#window === undefined ? 0 : Math.max(0, length - (this.#window - 1));
  }

  /**
   * Adds the new rows of a stream.
   *
   * @param name - `keys`, `values` or `latent`.
   * @param rows - `[T, G, width]`.
   * @returns The rows of all positions from {@link firstSeen} on, `[S, G, width]`.
   */
  append(name: string, rows: Tensor): Tensor {
    const stream =
      this.#streams.get(name) ?? fail(StateError, "cache", `there is no stream "${name}"`);
    const [length, first, size] = [this.#length(), this.firstSeen, stream.rows.shape[0]!];
    const end = length + rows.shape[0]!;
    const seen = stream.rows.slice(0, first - stream.start, length - stream.start);
    if (end - stream.start > size) {
      if (end - first > size) return this.#appendMany(stream, seen, rows, end);
      assign(stream.rows.slice(0, 0, length - first), seen);
      stream.start = first;
    }
    assign(stream.rows.slice(0, length - stream.start, end - stream.start), rows);
    return stream.rows.slice(0, first - stream.start, end - stream.start);
  }

  /**
   * What is held of the first position, `[1, G, width]`.
   *
   * @param rows - Makes those of the new positions, `[T, G, width]`: the first one is kept when the sequence is empty.
   */
  first(rows: () => Tensor): Tensor {
    const kept = this.#first ?? fail(StateError, "cache", "the first position is not held apart");
    if (this.#length() === 0) assign(kept, rows().slice(0, 0, 1));
    return kept;
  }

  /** Adds more rows than the stream holds: the last ones stay, and all that the new tokens see is returned. */
  #appendMany(stream: Stream, seen: Tensor, rows: Tensor, end: number): Tensor {
    const [size, heads, width] = stream.rows.shape as [number, number, number];
    const [before, added] = [seen.shape[0]!, rows.shape[0]!];
    const count = before + added;
    const all = emptyRows(rows.backend, [count, heads, width], this.#dtype);
    assign(all.slice(0, 0, before), seen);
    assign(all.slice(0, before, count), rows);
    assign(stream.rows, all.slice(0, count - size, count));
    stream.start = end - size;
    return all;
  }

  /** Whether the sequence can go on from an earlier length: its window must still be held. */
  holds(length: number): boolean {
    return (
      length === 0 ||
      [...this.#streams.values()].every(({ start }) => start <= this.#firstSeenAt(length))
    );
  }

  /** @internal Forgets everything. */
  clear(): void {
    for (const stream of this.#streams.values()) stream.start = 0;
  }

  /** The memory of all streams. */
  get tensors(): readonly Tensor[] {
    const streams = [...this.#streams.values()].map(({ rows }) => rows);
    return this.#first ? [...streams, this.#first] : streams;
  }
}
