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
import { matrix, solve, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

import type { ComplexVector } from "../algebra/complex-pairs.ts";
import { accumulate, owned, readOut, upload } from "../algebra/device.ts";
import { addToDiagonal, meanDiagonal } from "../algebra/matrices.ts";
import {
  project,
  rotate,
  rotationTables,
  type AttentionTensors,
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
  readonly #gram: readonly Matrix[];
  readonly #target: readonly Matrix[];

  /**
   * @param source - The layer.
   * @param slots - What keeps its rotation.
   * @param windows - How many windows will be added: they share the queries.
   */
  constructor(source: SourceAttention, slots: Slots, windows: number) {
    const { heads, headDim } = source.attention;
    this.#source = source;
    this.#slots = slots;
    this.#windows = windows;
    this.#gram = Array.from({ length: heads }, () => matrix(headDim, headDim));
    this.#target = Array.from({ length: heads }, () => matrix(headDim, 1));
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
    const perBlock = Math.max(1, Math.floor(BLOCK_NUMBERS / (T * c.headDim)));
    for (let h = 0; h < c.heads; h++) {
      for (let start = 0; start < positions.length; start += perBlock) {
        const end = Math.min(start + perBlock, positions.length);
        const moments = await readOut(() => this.#keyMoments(window, h, start, end));
        for (let i = start; i < end; i++) {
          const at = (i * c.heads + h) * c.headDim;
          this.#addQuery(h, queries.subarray(at, at + c.headDim), moments, i - start, end - start);
        }
      }
    }
  }

  /**
   * `queries [n, H d]`, probabilities and target logits `[H, n, T]`, and the keys without their slots `[g, T, d]`, less
   * their mean, which changes no covariance.
   */
  #prepare(
    x: Tensor,
    layer: AttentionTensors,
    positions: readonly number[],
  ): Record<"queries" | "weights" | "targets" | "keys", Tensor> {
    const { heads: H, kvHeads: g, headDim: d, scale } = this.#source.attention;
    const { backend } = x;
    const [T, n] = [x.shape[0]!, positions.length];
    const ropeDim = this.#slots.read.rows;
    const p = project(x, layer, this.#source.attention);
    const chosen = (heads: Tensor): Tensor => {
      const rows = tensor(backend, positions, [n], "i32");
      return gather(heads.reshape([T, heads.size / T]), rows);
    };
    const rebuild = upload(backend, this.#slots.rebuild); // [g d, d_r]
    const keys = p.keys.reshape([T, g * d]);
    const slots = matmul(keys, upload(backend, this.#slots.read).transpose()); // [T, d_r]
    const tables = rotationTables(backend, this.#source.frequencies.slice(0, ropeDim / 2), T);
    const rotatedSlots = rotate(slots.reshape([T, 1, ropeDim]), tables);

    // [g, rep T, d] times the group's rows of `rebuild`: the queries as the slots see them.
    const grouped = p.queries.permute(1, 0, 2).reshape([g, (H / g) * T, d]);
    const slotQueries = matmul(grouped, rebuild.reshape([g, d, ropeDim]))
      .reshape([H, T, ropeDim])
      .permute(1, 0, 2);
    const perGroup = (rows: Tensor, width: number): Tensor =>
      rows
        .reshape([n, H, width])
        .permute(1, 0, 2)
        .reshape([g, (H / g) * n, width]);
    const rotatedQueries = perGroup(chosen(p.rotatedQueries), d);
    const logits = matmul(rotatedQueries, p.rotatedKeys.permute(1, 2, 0)).reshape([H, n, T]);
    const slotPart = matmul(
      perGroup(chosen(rotate(slotQueries, tables)), ropeDim),
      rotatedSlots.reshape([T, ropeDim]).transpose(),
    ).reshape([H, n, T]);
    const weights = softmax(add(affine(logits, scale), futureKeys(backend, positions, T)));
    const rest = sub(logits, slotPart);
    const residual = sub(keys, matmul(slots, rebuild.transpose()));
    const byHead = residual.reshape([T, g, d]).permute(1, 0, 2).reshape([g, T, d]);
    const mean = affine(sum(byHead.transpose()), 1 / T).reshape([g, 1, d]);
    return {
      queries: chosen(p.queries),
      weights,
      targets: sub(rest, sum(mul(weights, rest))),
      keys: sub(byHead, mean),
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
    // Less the mean before the product: a query that looks at one key has a small covariance of large keys.
    const deviations = sub(keys.reshape([T, 1, d]), matmul(weights, keys)); // [T, n, d]
    const weighted = mul(weights.transpose().reshape([T, n, 1]), deviations).reshape([T, n * d]);
    return {
      covariances: matmul(keys.transpose(), weighted), // [d, n d]
      products: matmul(mul(weights, rows(window.targets)), keys), // [n, d]
    };
  }

  /** Adds `D Cov Dᵀ` and `D (products)` of query i of n. */
  #addQuery(
    h: number,
    q: Float32Array,
    moments: Readonly<Record<"covariances" | "products", Float32Array>>,
    i: number,
    n: number,
  ): void {
    const d = q.length;
    const products = moments.products.subarray(i * d, (i + 1) * d);
    const covariance = new Float64Array(d * d);
    for (let a = 0; a < d; a++) {
      const start = (a * n + i) * d;
      covariance.set(moments.covariances.subarray(start, start + d), a * d);
    }
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
