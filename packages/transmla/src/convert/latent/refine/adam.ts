import type { Matrix } from "@transmla/core/linalg";

/** Of a step, in units of the root mean square of a matrix. */
const RATE = 0.01;

/** Steps that the rate rises over; all the way it falls to zero as a cosine does. */
const WARM_UP = 5;

/** What the means of gradients and of their squares keep at each step. */
const BETAS = [0.9, 0.98] as const;

/** Beside the root mean square of a gradient. */
const EPSILON = 1e-12;

/** Matrices by their names. */
export type Matrices<T> = { readonly [K in keyof T]: Matrix };

/**
 * Steps of Adam (Kingma & Ba 2015) on matrices, each in units of its own size. What they are is kept in f64.
 *
 * @param start - The matrices.
 * @param gradients - Finds the gradient of each, for a step.
 * @param steps - How many steps.
 * @returns The matrices after the last step.
 */
export async function descend<T extends Matrices<T>>(
  start: T,
  gradients: (at: T, step: number) => Promise<{ readonly [K in keyof T]: ArrayLike<number> }>,
  steps: number,
): Promise<T> {
  const names = Object.keys(start) as (keyof T)[];
  const states = names.map((name) => new AdamState(start[name]));
  let at = start;
  for (let step = 0; step < steps; step++) {
    const found = await gradients(at, step);
    const rate = RATE * Math.min(1, (step + 1) / WARM_UP) * cosine(step / steps);
    const next = names.map((name, i) => [name, states[i]!.step(at[name], found[name], rate)]);
    at = Object.fromEntries(next) as T;
  }
  return at;
}

/** From 1 to 0. */
const cosine = (part: number): number => (1 + Math.cos(Math.PI * part)) / 2;

/** Means of the gradients of a matrix. */
class AdamState {
  readonly #scale: number;
  readonly #means: Float64Array;
  readonly #squares: Float64Array;
  #steps = 0;

  constructor({ data }: Matrix) {
    this.#scale = Math.sqrt(data.reduce((total, x) => total + x * x, 0) / data.length);
    this.#means = new Float64Array(data.length);
    this.#squares = new Float64Array(data.length);
  }

  /** The matrix after a step. */
  step(a: Matrix, gradient: ArrayLike<number>, rate: number): Matrix {
    this.#steps++;
    const [kept, keptSquares] = BETAS;
    const [seen, seenSquares] = [1 - kept ** this.#steps, 1 - keptSquares ** this.#steps];
    const data = a.data.map((x, i) => {
      const g = gradient[i]! * this.#scale;
      const mean = kept * this.#means[i]! + (1 - kept) * g;
      const square = keptSquares * this.#squares[i]! + (1 - keptSquares) * g * g;
      this.#means[i] = mean;
      this.#squares[i] = square;
      return x - (rate * this.#scale * mean) / (seen * (Math.sqrt(square / seenSquares) + EPSILON));
    });
    return { ...a, data };
  }
}
