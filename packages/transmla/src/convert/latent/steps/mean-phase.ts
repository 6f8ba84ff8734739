import {
  add,
  affine,
  gather,
  matmul,
  mul,
  softmax,
  sub,
  sum,
  tensor,
  type Tensor,
} from "@transmla/core";
import { matrix, multiply, solve, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

import type { ComplexVector } from "../algebra/complex-pairs.ts";
import { accumulate, owned, readOut, upload } from "../algebra/device.ts";
import { addToDiagonal, innerProduct, meanDiagonal } from "../algebra/matrices.ts";
import {
  project,
  rotate,
  rotationTables,
  type AttentionTensors,
  type LayerInputs,
  type SourceAttention,
} from "../source-layer.ts";
import type { Moments } from "./moments.ts";
import { futureKeys, queryPositions } from "./query-positions.ts";
import type { Slots } from "./slots.ts";

// What is left of the keys behind the slots loses its rotation e^{i (t - n) theta}. For each head and frequency a complex
// constant mu on the queries takes its place: the weighted least squares solution on the logits, with the attention as
// weight, over a few queries and all their keys. The features of query q and key k are D k, D the real form of q, so that
// their Gram matrix is D Cov(k) Dᵀ: the covariances of the keys under the attention of each query are what costs time.

/** Queries in the fit of a layer, spread evenly over windows and positions. */
const QUERIES = 256;

/** Of the fit, times the mean diagonal; it pulls towards the mean rotation. */
const RIDGE = 1e-3;

/** Weighted keys that are held at a time. */
const BLOCK_NUMBERS = 2 ** 22;

/** The normal equations of every head's fit, summed over windows. */
export class MeanPhaseFit {
  readonly #source: SourceAttention;
  readonly #slots: Slots;
  readonly #windows: number;
  readonly #residual: ((keys: Tensor) => Tensor) | undefined;
  readonly #gram: readonly Matrix[];
  readonly #target: readonly Matrix[];
  readonly #squares: Float64Array;
  #queries = 0;

  /**
   * @param source - The layer.
   * @param slots - What keeps its rotation.
   * @param windows - How many windows will be added: they share the queries.
   * @param residual - What is left of the keys `[T, g, d]` that lie behind slots and latent; all of them when absent.
   */
  constructor(
    source: SourceAttention,
    slots: Slots,
    windows: number,
    residual?: (keys: Tensor) => Tensor,
  ) {
    const { heads, headDim } = source.attention;
    this.#source = source;
    this.#slots = slots;
    this.#windows = windows;
    this.#residual = residual;
    this.#gram = Array.from({ length: heads }, () => matrix(headDim, headDim));
    this.#target = Array.from({ length: heads }, () => matrix(headDim, 1));
    this.#squares = new Float64Array(heads);
  }

  /**
   * Adds the queries of a window.
   *
   * @param x - The normalised inputs `[T, D]`.
   * @param layer - The weights of the layer on the backend.
   * @param index - Which window.
   */
  async add(x: Tensor, layer: AttentionTensors, index: number): Promise<void> {
    const c = this.#source.attention;
    const T = x.shape[0]!;
    const positions = queryPositions(T, index, this.#windows, QUERIES);
    using window = owned(() => this.#prepare(x, layer, positions));
    const queries = await window.queries.read(); // [n, H d]
    const { squares } = await readOut(() => ({
      squares: sum(
        sum(mul(window.weights, mul(window.targets, window.targets))).reshape([
          c.heads,
          positions.length,
        ]),
      ),
    }));
    accumulate(this.#squares, squares);
    this.#queries += positions.length;
    const perBlock = Math.max(1, Math.floor(BLOCK_NUMBERS / (T * c.headDim)));
    for (let h = 0; h < c.heads; h++) {
      for (let start = 0; start < positions.length; start += perBlock) {
        const end = Math.min(start + perBlock, positions.length);
        const moments = await readOut(() => this.#keyMoments(window, h, start, end));
        for (let i = start; i < end; i++) {
          const at = (i * c.heads + h) * c.headDim;
          this.#addQuery(h, queries.subarray(at, at + c.headDim), moments, i - start);
        }
      }
    }
  }

  /**
   * `queries [n, H d]`, probabilities and target logits `[H, n, T]`, and the keys without their slots `[g, T, d]`; less
   * their mean, which changes no covariance, unless their zero has a meaning.
   */
  #prepare(
    x: Tensor,
    layer: AttentionTensors,
    positions: readonly number[],
  ): Record<"queries" | "weights" | "targets" | "keys", Tensor> {
    const { heads: H, kvHeads: g, headDim: d, scale } = this.#source.attention;
    const { backend } = x;
    const [T, n] = [x.shape[0]!, positions.length];
    const residual = this.#residual;
    const p = project(x, layer, this.#source.attention);
    const chosen = (heads: Tensor): Tensor => {
      const rows = tensor(backend, positions, [n], "i32");
      return gather(heads.reshape([T, heads.size / T]), rows);
    };
    const perGroup = (rows: Tensor, width: number): Tensor =>
      rows
        .reshape([n, H, width])
        .permute(1, 0, 2)
        .reshape([g, (H / g) * n, width]);
    const rotatedQueries = perGroup(chosen(p.rotatedQueries), d);
    const against = (keys: Tensor): Tensor =>
      matmul(rotatedQueries, keys.permute(1, 2, 0)).reshape([H, n, T]);
    const logits = against(p.rotatedKeys);
    const weights = softmax(add(affine(logits, scale), futureKeys(backend, positions, T)));
    const left = residual ? residual(p.keys) : p.keys;
    const keys = left.reshape([T, g * d]);
    let rest = residual ? against(rotate(left, layer)) : logits;
    let behind = keys;
    if (this.#slots.pairs.length > 0) {
      const { slotPart, held } = this.#slotPart(p.queries, keys, chosen, perGroup);
      rest = sub(rest, slotPart.reshape([H, n, T]));
      behind = sub(keys, held);
    }
    const byHead = behind.reshape([T, g, d]).permute(1, 0, 2).reshape([g, T, d]);
    const mean = affine(sum(byHead.transpose()), 1 / T).reshape([g, 1, d]);
    return {
      queries: chosen(p.queries),
      weights,
      targets: sub(rest, sum(mul(weights, rest))),
      keys: residual ? byHead : sub(byHead, mean),
    };
  }

  /** The logits of the slots, `[g, H/g n, T]`, and the part `[T, g d]` of the keys that they hold. */
  #slotPart(
    queries: Tensor,
    keys: Tensor,
    chosen: (heads: Tensor) => Tensor,
    perGroup: (rows: Tensor, width: number) => Tensor,
  ): Record<"slotPart" | "held", Tensor> {
    const { heads: H, kvHeads: g, headDim: d } = this.#source.attention;
    const { pairs, read, rebuild } = this.#slots;
    const { backend } = keys;
    const [T, ropeDim] = [keys.shape[0]!, read.rows];
    const back = upload(backend, rebuild); // [g d, d_r]
    const slots = matmul(keys, upload(backend, read).transpose()); // [T, d_r]
    const frequencies = pairs.map((l) => this.#source.frequencies[l]!);
    const tables = rotationTables(backend, frequencies, T);
    const rotatedSlots = rotate(slots.reshape([T, 1, ropeDim]), tables).reshape([T, ropeDim]);
    // [g, rep T, d] times the group's rows of `rebuild`: the queries as the slots see them.
    const grouped = queries.permute(1, 0, 2).reshape([g, (H / g) * T, d]);
    const slotQueries = matmul(grouped, back.reshape([g, d, ropeDim]))
      .reshape([H, T, ropeDim])
      .permute(1, 0, 2);
    const asked = perGroup(chosen(rotate(slotQueries, tables)), ropeDim);
    return {
      slotPart: matmul(
        asked.reshape([H * (asked.size / (H * ropeDim)), ropeDim]),
        rotatedSlots.transpose(),
      ),
      held: matmul(slots, back.transpose()),
    };
  }

  /** Under the attention of queries `start` to `end - 1`: covariances of the keys, and products with the target. */
  #keyMoments(
    window: Record<"weights" | "targets" | "keys", Tensor>,
    h: number,
    start: number,
    end: number,
  ): Record<"covariances" | "products", Tensor> {
    const { heads, kvHeads, headDim: d } = this.#source.attention;
    const group = Math.floor(h / (heads / kvHeads));
    const T = window.keys.shape[1]!;
    const n = end - start;
    const rows = (of: Tensor): Tensor =>
      of
        .slice(0, h, h + 1)
        .slice(1, start, end)
        .reshape([n, T]);
    const weights = rows(window.weights);
    const keys = window.keys.slice(0, group, group + 1).reshape([T, d]);
    // Less the mean before the product, and the same on both sides: a query that looks at one key has a small covariance
    // of large keys, which must not lose its sign to rounding.
    const deviations = sub(keys.reshape([1, T, d]), matmul(weights, keys).reshape([n, 1, d]));
    const weighted = mul(weights.reshape([n, T, 1]), deviations);
    return {
      covariances: matmul(deviations.transpose(), weighted), // [n, d, d]
      products: matmul(mul(weights, rows(window.targets)), keys), // [n, d]
    };
  }

  /** Adds `D Cov Dᵀ` and `D (products)` of query i. */
  #addQuery(
    h: number,
    q: Float32Array,
    moments: Readonly<Record<"covariances" | "products", Float32Array>>,
    i: number,
  ): void {
    const d = q.length;
    const products = moments.products.subarray(i * d, (i + 1) * d);
    const covariance = moments.covariances.subarray(i * d * d, (i + 1) * d * d);
    const half = applyQuery(q, covariance, d); // D Cov
    accumulate(this.#gram[h]!.data, applyQuery(q, transposed(half, d), d)); // D (D Cov)ᵀ
    accumulate(this.#target[h]!.data, applyQuery(q, products, 1));
  }

  /**
   * Solves for every head.
   *
   * @param moments - Of the layer, for what the ridge pulls towards.
   * @param options - The kernels.
   * @returns For each head a factor for each RoPE pair of its queries.
   */
  finish(moments: Moments, options: LinalgOptions = {}): ComplexVector[] {
    const { headDim } = this.#source.attention;
    const pairs = headDim / 2;
    return this.#gram.map((gram, h) => {
      // The least number serves a residual of zeros, whose factors do not matter.
      const ridge = Math.max(RIDGE * meanDiagonal(gram), 1e-30);
      const damped = { ...gram, data: gram.data.slice() };
      addToDiagonal(damped, ridge);
      const target = { ...this.#target[h]!, data: this.#target[h]!.data.slice() };
      for (let l = 0; l < pairs; l++) {
        target.data[l]! += ridge * Math.max(moments.meanRotation.re[l]!, 0);
      }
      const { data } = solve(damped, target, options);
      return { re: data.slice(0, pairs), im: data.slice(pairs) };
    });
  }

  /** What the phases leave. */
  residuals(phases: readonly ComplexVector[]): number[] {
    return phases.map(({ re, im }, h) => {
      const mu = matrix(re.length * 2, 1, Float64Array.of(...re, ...im));
      const fitted = innerProduct(mu, multiply(this.#gram[h]!, mu));
      const left = this.#squares[h]! - 2 * innerProduct(mu, this.#target[h]!) + fitted;
      return Math.max(left, 0) / this.#queries;
    });
  }
}

/** Phases, and what they leave. */
export interface FittedPhases {
  /** For each head a factor for each RoPE pair of its queries. */
  readonly phases: readonly ComplexVector[];
  /** For each head the mean over queries of `Σ p e²`, e the error of the logits before the softmax scale. */
  readonly residuals: readonly number[];
}

/** What a fit of phases stands on. */
export interface PhaseFitOptions {
  readonly slots: Slots;
  readonly moments: Moments;
  /** What is left of the keys `[T, g, d]` that lie behind slots and latent; all of them when absent. */
  readonly residual?: ((keys: Tensor) => Tensor) | undefined;
}

/**
 * Fits the phases of all heads over all windows.
 *
 * @param source - The layer.
 * @param inputs - The windows.
 * @param tensors - The weights of the layer on the backend.
 * @param from - Slots and moments of the layer.
 * @param options - The kernels.
 */
export async function fitMeanPhases(
  source: SourceAttention,
  inputs: LayerInputs,
  tensors: AttentionTensors,
  { slots, moments, residual }: PhaseFitOptions,
  options: LinalgOptions = {},
): Promise<FittedPhases> {
  const fit = new MeanPhaseFit(source, slots, inputs.windows, residual);
  for (let window = 0; window < inputs.windows; window++) {
    using x = inputs.at(window);
    await fit.add(x, tensors, window);
  }
  const phases = fit.finish(moments, options);
  return { phases, residuals: fit.residuals(phases) };
}

/** `D a` for `a [d, cols]`: features `Re(q conj k)` and `-Im(q conj k)` of keys in columns. */
function applyQuery(q: ArrayLike<number>, a: ArrayLike<number>, cols: number): Float64Array {
  const pairs = q.length / 2;
  const result = new Float64Array(a.length);
  for (let l = 0; l < pairs; l++) {
    const [re, im] = [q[l]!, q[l + pairs]!];
    for (let j = 0; j < cols; j++) {
      const [x, y] = [a[l * cols + j]!, a[(l + pairs) * cols + j]!];
      result[l * cols + j] = re * x + im * y;
      result[(l + pairs) * cols + j] = re * y - im * x;
    }
  }
  return result;
}

function transposed(a: Float64Array, size: number): Float64Array {
  const result = new Float64Array(a.length);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) result[j * size + i] = a[i * size + j]!;
  }
  return result;
}
