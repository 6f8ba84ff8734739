import { matmul, mul, sub, sum, type Tensor } from "@transmla/core";
import { matrix, solve, transpose, type LinalgOptions } from "@transmla/core/linalg";
import type { Matrix } from "@transmla/core/linalg";

import { accumulate, gram, readOut, total } from "../algebra/device.ts";
import { addToDiagonal, innerProduct, meanDiagonal, weightedSum } from "../algebra/matrices.ts";

/** The output matrix after its refit, and what it has brought. */
export interface OutputRefit {
  /** `[D, H d]`. */
  readonly output: Matrix;
  /** `Σ |y' - y|² / Σ |y|²` of the attention outputs with the old matrix, over all calibration tokens. */
  readonly errorBefore: number;
  /** The same with the new one. */
  readonly error: number;
}

/**
 * Ridge regression of the output matrix of a branch on its inputs, the outputs of the converted heads or what gates leave
 * of a feed-forward layer, with the original matrix as prior: towards the outputs of the original branch, or towards what
 * makes up for the drift of the residual stream too. It is solved for the change of the matrix: the residual is small
 * beside the outputs, and so is its rounding in f32.
 */
export class OutputFit {
  readonly #gram: Matrix;
  readonly #products: Matrix;
  #residual = 0;
  #power = 0;

  /**
   * @param inputs - H d.
   * @param outputs - D.
   */
  constructor(inputs: number, outputs: number) {
    this.#gram = matrix(inputs, inputs);
    this.#products = matrix(inputs, outputs);
  }

  /**
   * Adds a window.
   *
   * @param heads - The inputs of the matrix `[T, H d]`.
   * @param target - What its outputs should be `[T, D]`.
   * @param output - The original output matrix `[D, H d]`.
   * @param weights - How much each token counts, `[T, 1]`; 1 when absent.
   */
  async add(heads: Tensor, target: Tensor, output: Tensor, weights?: Tensor): Promise<void> {
    const sums = await readOut(() => {
      const weighted = (rows: Tensor): Tensor => (weights ? mul(rows, weights) : rows);
      const residual = sub(target, matmul(heads, output.transpose()));
      return {
        gram: gram(heads, weighted(heads)),
        products: gram(heads, weighted(residual)),
        residual: sum(mul(residual, weighted(residual))),
        power: sum(mul(target, weighted(target))),
      };
    });
    accumulate(this.#gram.data, sums.gram);
    accumulate(this.#products.data, sums.products);
    this.#residual += total(sums.residual);
    this.#power += total(sums.power);
  }

  /**
   * The original matrix with its error.
   *
   * @param original - The original output matrix.
   */
  unchanged(original: Matrix): OutputRefit {
    const error = this.#residual / this.#power;
    return { output: original, errorBefore: error, error };
  }

  /**
   * Solves for the matrix.
   *
   * @param original - The original output matrix.
   * @param ridge - Times the mean diagonal.
   * @param options - The kernels.
   */
  finish(original: Matrix, ridge: number, options: LinalgOptions = {}): OutputRefit {
    const damped = matrix(this.#gram.rows, this.#gram.cols, this.#gram.data.slice());
    const added = Math.max(ridge * meanDiagonal(damped), Number.MIN_VALUE);
    addToDiagonal(damped, added);
    const change = solve(damped, this.#products, options); // [H d, D]
    // 2 <change, products> - <change, gram change>, with gram change = products - added change.
    const removed = innerProduct(change, this.#products) + added * innerProduct(change, change);
    return {
      output: weightedSum([
        [1, original],
        [1, transpose(change)],
      ]),
      errorBefore: this.#residual / this.#power,
      error: Math.max(this.#residual - removed, 0) / this.#power,
    };
  }
}
