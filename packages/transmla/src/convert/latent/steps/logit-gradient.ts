import {
  add,
  affine,
  concat,
  gather,
  matmul,
  mul,
  rope,
  softmax,
  sub,
  sum,
  tensor,
  type Tensor,
} from "@transmla/core";
import { matrix, type Matrix } from "@transmla/core/linalg";

import { accumulate, owned, readOut, upload } from "../algebra/device.ts";
import { stackRows } from "../algebra/matrices.ts";
import type { LatentLayer } from "../latent-layer.ts";
import {
  project,
  rotate,
  rotationTables,
  type AttentionTensors,
  type LayerInputs,
  type SourceAttention,
} from "../source-layer.ts";
import { futureKeys, queryPositions } from "./query-positions.ts";

// The logits of a head through a latent are bilinear: `q A u`, q the original query before RoPE, `A [d, w]` the map of
// the head, u = [latent ; rotated key as seen from the query], w = r + d_r. n queries of T tokens represent a window.

/** Queries of a layer's fit over all windows. */
const QUERIES = 2560;

/** Queries whose keys give the second moment of u: each counts all its keys, so that few are enough. */
const MOMENT_QUERIES = 64;

/**
 * What is kept of a window: `queries [H, n, d]`, `rotatedQueries [g, H/g n, d]`, `rotatedKeys [g, d, T]`,
 * `features [T, w]`, `future [n, T]`, and the rotations of the queries `cos, sin [n, d_r/2]`.
 */
type Window = Disposable &
  Readonly<
    Record<
      "queries" | "rotatedQueries" | "rotatedKeys" | "features" | "future" | "cos" | "sin",
      Tensor
    >
  >;

/** Weighted least squares on the logits of every head, with the original attention as weight. */
export class LogitSquares implements Disposable {
  readonly #source: SourceAttention;
  readonly #windows: Window[] = [];
  readonly #ropeDim: number;

  /**
   * Prepares the windows.
   *
   * @param source - The original layer.
   * @param tensors - Its weights on the backend.
   * @param layer - Latent and rotated key.
   * @param inputs - The windows.
   */
  constructor(
    source: SourceAttention,
    tensors: AttentionTensors,
    layer: Pick<LatentLayer, "latent" | "keyRope">,
    inputs: LayerInputs,
  ) {
    this.#source = source;
    this.#ropeDim = layer.keyRope.rows;
    try {
      for (let index = 0; index < inputs.windows; index++) {
        using x = inputs.at(index);
        const positions = queryPositions(x.shape[0]!, index, inputs.windows, QUERIES);
        this.#windows.push(owned(() => this.#prepare(x, tensors, layer, positions)));
      }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  #prepare(
    x: Tensor,
    tensors: AttentionTensors,
    layer: Pick<LatentLayer, "latent" | "keyRope">,
    positions: readonly number[],
  ): Omit<Window, typeof Symbol.dispose> {
    const { attention: c, frequencies } = this.#source;
    const { heads: H, kvHeads: g, headDim: d } = c;
    const { backend } = x;
    const [T, n] = [x.shape[0]!, positions.length];
    const p = project(x, tensors, c);
    const rows = tensor(backend, positions, [n], "i32");
    const chosen = (all: Tensor): Tensor =>
      gather(all.reshape([T, H * d]), rows)
        .reshape([n, H, d])
        .permute(1, 0, 2); // [H, n, d]
    const slots = frequencies.slice(0, this.#ropeDim / 2);
    const tables = rotationTables(backend, slots, T);
    const key = matmul(x, upload(backend, layer.keyRope).transpose()); // [T, d_r]
    const rotatedKey = rotate(key.reshape([T, 1, this.#ropeDim]), tables);
    const latent = matmul(x, upload(backend, layer.latent).transpose()); // [T, r]
    return {
      queries: chosen(p.queries).reshape([H, n, d]),
      rotatedQueries: chosen(p.rotatedQueries).reshape([g, (H / g) * n, d]),
      rotatedKeys: p.rotatedKeys.permute(1, 2, 0).reshape([g, d, T]),
      features: concat([latent, rotatedKey.reshape([T, this.#ropeDim])], 1),
      future: futureKeys(backend, positions, T),
      cos: gather(tables.cos, rows),
      sin: gather(tables.sin, rows),
    };
  }

  /** Original logits and attention of a window, `[H, n, T]`. */
  #original({ rotatedQueries, rotatedKeys, future }: Window): Record<"logits" | "weights", Tensor> {
    const { heads, scale } = this.#source.attention;
    const [n, T] = future.shape as [number, number];
    const logits = matmul(rotatedQueries, rotatedKeys).reshape([heads, n, T]);
    return { logits, weights: softmax(add(affine(logits, scale), future)) };
  }

  /** Rotates the last d_r components of `x[H, n, w]` by the positions of the queries, or back. */
  #turn(x: Tensor, { cos, sin }: Window, direction: 1 | -1): Tensor {
    const [H, n, width] = x.shape as [number, number, number];
    const rank = width - this.#ropeDim;
    const part = x.slice(2, rank, width).permute(1, 0, 2).reshape([n, H, this.#ropeDim]);
    const turned = rope(part, cos, affine(sin, direction), { interleaved: false });
    return concat([x.slice(2, 0, rank), turned.permute(1, 0, 2)], 2);
  }

  /**
   * `Σ qᵀ (p centred(e)) u / N` of each head, over all N queries: half the negative gradient of the squares of e.
   *
   * @param maps - For each head `[d, w]`.
   * @param against - e is the original logits less those of the maps, or those of the maps alone.
   */
  async gradient(maps: readonly Matrix[], against: "logits" | "nothing"): Promise<Matrix[]> {
    const { heads: H, headDim: d } = this.#source.attention;
    const width = maps[0]!.cols;
    const total = new Float64Array(H * d * width);
    let count = 0;
    for (const window of this.#windows) {
      const [n, T] = window.future.shape as [number, number];
      const { sums } = await readOut(() => {
        const { logits, weights } = this.#original(window);
        const map = upload(window.future.backend, stackRows(maps)).reshape([H, d, width]);
        const seen = this.#turn(matmul(window.queries, map), window, 1).reshape([H * n, width]);
        const own = matmul(seen, window.features.transpose()).reshape([H, n, T]);
        const error = against === "logits" ? sub(logits, own) : own;
        const change = mul(weights, sub(error, sum(mul(weights, error))));
        const pulled = matmul(change.reshape([H * n, T]), window.features).reshape([H, n, width]);
        const back = this.#turn(pulled, window, -1);
        return { sums: matmul(window.queries.transpose(), back) }; // [H, d, w]
      });
      accumulate(total, sums);
      count += n;
    }
    return perHead(total, H, d, width, count);
  }

  /** The mean over queries of the covariance of u under the attention, `[w, w]` for each head. */
  async featureMoments(): Promise<Matrix[]> {
    const { heads: H } = this.#source.attention;
    const width = this.#windows[0]!.features.shape[1]!;
    const total = new Float64Array(H * width * width);
    const perWindow = Math.ceil(MOMENT_QUERIES / this.#windows.length);
    let count = 0;
    for (const window of this.#windows) {
      const n = window.future.shape[0]!;
      const step = Math.max(1, n / perWindow);
      using original = owned(() => this.#original(window));
      for (let at = step / 2; at < n; at += step) {
        const { sums } = await readOut(() =>
          this.#covariance(window, original.weights, Math.floor(at)),
        );
        accumulate(total, sums);
        count++;
      }
    }
    return perHead(total, H, width, width, count);
  }

  /** The covariances of u under the attention of one query. */
  #covariance(window: Window, weights: Tensor, query: number): Record<"sums", Tensor> {
    const [T, width] = window.features.shape as [number, number];
    const H = weights.shape[0]!;
    const rank = width - this.#ropeDim;
    const table = (of: Tensor, sign: 1 | -1): Tensor =>
      affine(of.slice(0, query, query + 1), sign).expand([T, this.#ropeDim / 2]);
    const key = window.features.slice(1, rank, width).reshape([T, 1, this.#ropeDim]);
    const seen = rope(key, table(window.cos, 1), table(window.sin, -1), { interleaved: false });
    const u = concat([window.features.slice(1, 0, rank), seen.reshape([T, this.#ropeDim])], 1);
    const p = weights.slice(1, query, query + 1).reshape([H, T]);
    const deviations = sub(u, matmul(p, u).reshape([H, 1, width])); // [H, T, w]
    const weighted = mul(p.reshape([H, T, 1]), deviations);
    return { sums: matmul(weighted.transpose(), u) };
  }

  /** Frees what is kept of the windows. */
  [Symbol.dispose](): void {
    for (const window of this.#windows) window[Symbol.dispose]();
    this.#windows.length = 0;
  }
}

/** Means of sums `[H, rows, cols]` as a matrix for each head. */
function perHead(
  sums: Float64Array,
  heads: number,
  rows: number,
  cols: number,
  count: number,
): Matrix[] {
  const size = rows * cols;
  return Array.from({ length: heads }, (_, h) =>
    matrix(
      rows,
      cols,
      sums.subarray(h * size, (h + 1) * size).map((sum) => sum / count),
    ),
  );
}
