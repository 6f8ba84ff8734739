import { fail, FormatError, type Shape } from "@transmla/core";

import type { WeightStore } from "./weights.ts";

/** Stacks weights of one shape along a new first axis. */
export type Stack<T> = (names: readonly string[], parts: readonly T[]) => T;

const noStack = (): never => {
  throw new TypeError("weights: these cannot be stacked");
};

/**
 * Named tensors that a layer's weights are taken from; it keeps account of what was taken.
 *
 * @typeParam T - What a weight is; only its shape matters here.
 */
export class NamedTensors<T extends { readonly shape: Shape }> implements WeightStore<T> {
  readonly #tensors: ReadonlyMap<string, T>;
  readonly #source: string;
  readonly #stack: Stack<T>;
  readonly #taken = new Set<string>();

  /**
   * @param tensors - The weights by name.
   * @param source - Where they come from, for errors.
   * @param stack - How weights are stacked, where experts are to be taken.
   */
  constructor(tensors: ReadonlyMap<string, T>, source = "weights", stack: Stack<T> = noStack) {
    this.#tensors = tensors;
    this.#stack = stack;
    this.#source = source;
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  take(name: string, shape: Shape): T {
    const found =
      this.#tensors.get(name) ??
      fail(FormatError, this.#source, `${name} [${shape.join(",")}] is missing`);
    if (
      found.shape.length !== shape.length ||
      found.shape.some((size, axis) => size !== shape[axis])
    ) {
      fail(
        FormatError,
        this.#source,
        `${name} must be [${shape.join(",")}], found [${found.shape.join(",")}]`,
      );
    }
    this.#taken.add(name);
    return found;
  }

  takeStacked(names: readonly string[], shape: Shape): T {
    return this.#stack(
      names,
      names.map((name) => this.take(name, shape)),
    );
  }

  /** The names that nobody has taken. */
  unused(): string[] {
    return [...this.#tensors.keys()].filter((name) => !this.#taken.has(name));
  }
}
