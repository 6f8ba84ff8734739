import type { HostTensor } from "../../../src/convert/host-tensor.ts";
import type { Linear } from "../../../src/model/weights.ts";
import type { Rows } from "../reference/attention.ts";

/** Pseudo-random numbers from a seed (mulberry32), so that an input prints as a few integers. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  /** In [0, 1). */
  uniform(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let bits = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  }

  /** Standard normal (Box and Muller 1958). */
  gaussian(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** `length` normal numbers. */
  gaussians(length: number): number[] {
    return Array.from({ length }, () => this.gaussian());
  }

  /** `tokens` rows of normal numbers. */
  rows(tokens: number, width: number): Rows {
    return Array.from({ length: tokens }, () => this.gaussians(width));
  }

  /** Integers from 0 to `below - 1`. */
  integers(length: number, below: number): number[] {
    return Array.from({ length }, () => Math.floor(this.uniform() * below));
  }

  /** A tensor of normal numbers times `scale`. */
  tensor(shape: readonly number[], scale = 1): HostTensor {
    const size = shape.reduce((product, n) => product * n, 1);
    return { shape, data: Float64Array.from({ length: size }, () => scale * this.gaussian()) };
  }

  /** `weight [outputs, inputs]` scaled by `1/sqrt(inputs)`, and a bias if asked for. */
  linear(outputs: number, inputs: number, biased = false): Linear<HostTensor> {
    const weight = this.tensor([outputs, inputs], 1 / Math.sqrt(inputs));
    return { weight, bias: biased ? this.tensor([outputs], 0.5) : undefined };
  }

  /** The weight of a norm: near 1. */
  norm(width: number): HostTensor {
    const { shape, data } = this.tensor([width], 0.1);
    return { shape, data: data.map((x) => 1 + x) };
  }

  /** `pairs` distinct frequencies, from 1 falling to e^-6, one in each of equal intervals of the logarithm. */
  frequencies(pairs: number): number[] {
    return Array.from({ length: pairs }, (_, l) =>
      Math.exp((-6 * (l + 0.9 * this.uniform())) / pairs),
    );
  }
}
