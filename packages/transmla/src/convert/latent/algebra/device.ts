import {
  add,
  matmul,
  mul,
  scope,
  sub,
  sum,
  tensor,
  type Backend,
  type Tensor,
} from "@transmla/core";
import type { Matrix } from "@transmla/core/linalg";

/** Tensors by name. */
type Named<T> = { readonly [K in keyof T]: Tensor };

/**
 * Runs work whose results outlive the scope, across reads: `using` frees them.
 *
 * @param body - Synchronous work that returns tensors by name.
 */
export function owned<T extends Named<T>>(
  body: () => T extends PromiseLike<unknown> ? never : T,
): T & Disposable {
  const made: T = scope(body);
  return Object.assign(made, {
    [Symbol.dispose]: (): void => {
      for (const held of Object.values<Tensor>(made)) held.dispose();
    },
  });
}

/**
 * Runs work, reads its results and frees everything.
 *
 * @param body - Synchronous work that returns tensors by name.
 */
export async function readOut<T extends Named<T>>(
  body: () => T extends PromiseLike<unknown> ? never : T,
): Promise<{ readonly [K in keyof T]: Float32Array }> {
  using made = owned(body);
  const read: Partial<Record<string, Float32Array>> = {};
  for (const [name, held] of Object.entries<Tensor>(made)) read[name] = await held.read();
  return read as { readonly [K in keyof T]: Float32Array };
}

/**
 * Uploads a matrix, with one rounding to f32.
 *
 * @param backend - Where to.
 * @param a - The matrix.
 */
export function upload(backend: Backend, { rows, cols, data }: Matrix): Tensor {
  return tensor(backend, data, [rows, cols]);
}

/** Rows that are added up in one product in f32: sums of more rows round too often for eigenvectors. */
const ROWS_PER_PRODUCT = 64;

/**
 * `aᵀ b`, a few rows at a time.
 *
 * @param a - `[..., T, m]`.
 * @param b - `[..., T, n]`.
 * @returns `[..., m, n]`.
 */
export function gram(a: Tensor, b: Tensor): Tensor {
  const T = a.shape.at(-2)!;
  let total: Tensor | undefined;
  for (let start = 0; start < T; start += ROWS_PER_PRODUCT) {
    const end = Math.min(start + ROWS_PER_PRODUCT, T);
    const before = total;
    // Freed on the way: the sums of all steps together would not fit beside a large layer.
    total = scope(() => {
      const product = matmul(a.slice(-2, start, end).transpose(), b.slice(-2, start, end));
      return before ? add(before, product) : product;
    });
    before?.dispose();
  }
  return total!;
}

/**
 * Adds numbers in f64.
 *
 * @param into - The sums; changed in place.
 * @param terms - As many numbers.
 */
export function accumulate(into: Float64Array, terms: ArrayLike<number>): void {
  for (let i = 0; i < into.length; i++) into[i]! += terms[i]!;
}

/**
 * The sum of numbers, in f64.
 *
 * @param values - The numbers.
 */
export function total(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0);
}

/** `Σ |found - expected|² / Σ |expected|²` over pairs of tensors. */
export class RelativeError {
  #residual = 0;
  #power = 0;

  /**
   * Adds a pair.
   *
   * @param found - Any tensor.
   * @param expected - One of the same shape.
   */
  async add(found: Tensor, expected: Tensor): Promise<void> {
    const squares = await readOut(() => {
      const difference = sub(found, expected);
      return { residual: sum(mul(difference, difference)), power: sum(mul(expected, expected)) };
    });
    this.#residual += total(squares.residual);
    this.#power += total(squares.power);
  }

  /** The error of all pairs so far. */
  get value(): number {
    return this.#residual / this.#power;
  }
}
