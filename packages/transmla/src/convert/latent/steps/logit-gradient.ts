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
import {
  project,
  rotationTables,
  type AttentionTensors,
  type LayerInputs,
  type Projected,
  type Rotation,
  type SourceAttention,
} from "../source-layer.ts";
import { futureKeys, queryPositions } from "./query-positions.ts";

// The logits of a head through a latent are bilinear: `q A u`, q the original query before RoPE, `A [d, w]` the map of
// the head, u = [latent ; rotated keys as seen from the query] the features of a key. A few queries represent a window.
// With p the original attention, the squares are Σ p (S - q A u - its mean under p)², and half their negative gradient is
// Σ qᵀ (Σ p e (u - ū)), e the logits that A lacks and ū the mean of u.

/** Queries of a layer's fit over all windows. */
const QUERIES = 2560;

/** Queries whose keys give the second moment of u: each counts all its keys, so that few are enough. */
const MOMENT_QUERIES = 64;

/** Queries of a window are taken in as many groups: the keys behind the last query of a group are left out. */
const GROUPS = 4;

/** What heads see of the keys. */
export interface KeyFeatures {
  /** Radians per position of the keys that are rotated, the last features: of each its pairs, half-split. */
  readonly rotated: readonly (readonly number[])[];
  /** Whether the first position has scores of its own: its features are zeros. */
  readonly exactFirst: boolean;
  /** The features `[T, w]` of a window, the last ones rotated by their positions. */
  readonly of: (window: { readonly x: Tensor } & Projected) => Tensor;
}

/**
 * n queries and the keys that they see: `queries [H, n, d]`, their rotations `cos, sin [n, pairs]`, `features [S, w]`,
 * `weights [H, n, S]`, and the mean of the features under the weights `means [H, n, w]`.
 */
type Group = Readonly<Record<"queries" | "cos" | "sin" | "features" | "weights" | "means", Tensor>>;

/** Weighted least squares on the logits of every head, with the original attention as weight. */
export class LogitSquares implements Disposable {
  readonly #source: SourceAttention;
  readonly #features: KeyFeatures;
  readonly #width: number;
  readonly #groups: (Group & Disposable)[] = [];
  /** `[H, d, w]`: `Σ qᵀ (Σ p S (u - ū))`. */
  readonly #target: Float64Array;
  #queries = 0;

  private constructor(source: SourceAttention, features: KeyFeatures, width: number) {
    const { heads, headDim } = source.attention;
    this.#source = source;
    this.#features = features;
    this.#width = width;
    this.#target = new Float64Array(heads * headDim * width);
  }

  /**
   * Prepares the windows.
   *
   * @param source - The original layer.
   * @param tensors - Its weights on the backend.
   * @param features - What heads see of the keys.
   * @param width - w: how many features.
   * @param inputs - The windows.
   * @param teacher - The windows as the original model sees them, whose logits and attention count: `inputs` when absent.
   * @returns What the caller disposes of.
   */
  static async over(
    source: SourceAttention,
    tensors: AttentionTensors,
    features: KeyFeatures,
    width: number,
    inputs: LayerInputs,
    teacher?: LayerInputs,
  ): Promise<LogitSquares> {
    const squares = new LogitSquares(source, features, width);
    try {
      for (let index = 0; index < inputs.windows; index++) {
        using x = inputs.at(index);
        using projected = owned(() => project(x, tensors, source.attention));
        using original = teacher?.at(index);
        using taught = original && owned(() => project(original, tensors, source.attention));
        using window = owned(() => ({ features: features.of({ x, ...projected }) }));
        const positions = queryPositions(x.shape[0]!, index, inputs.windows, QUERIES);
        const size = Math.ceil(positions.length / GROUPS);
        for (let start = 0; start < positions.length; start += size) {
          const group = positions.slice(start, start + size);
          await squares.#add(projected, taught ?? projected, window.features, group);
        }
      }
    } catch (error) {
      squares[Symbol.dispose]();
      throw error;
    }
    return squares;
  }

  async #add(
    p: Projected,
    taught: Projected,
    features: Tensor,
    positions: readonly number[],
  ): Promise<void> {
    const { heads: H, kvHeads: g, headDim: d, scale } = this.#source.attention;
    const { backend } = features;
    const [T, n, S] = [features.shape[0]!, positions.length, positions.at(-1)! + 1];
    const group = owned(() => {
      const rows = tensor(backend, positions, [n], "i32");
      const chosen = (all: Tensor): Tensor =>
        gather(all.reshape([T, H * d]), rows)
          .reshape([n, H, d])
          .permute(1, 0, 2); // [H, n, d]
      const rotated = chosen(taught.rotatedQueries).reshape([g, (H / g) * n, d]);
      const keys = taught.rotatedKeys.slice(0, 0, S).permute(1, 2, 0); // [g, d, S]
      const logits = matmul(rotated, keys).reshape([H, n, S]);
      const weights = softmax(add(affine(logits, scale), futureKeys(backend, positions, S)));
      const tables = rotationTables(backend, this.#features.rotated.flat(), S);
      const seen = features.slice(0, 0, S).reshape([S, this.#width]);
      const means = matmul(weights.reshape([H * n, S]), seen).reshape([H, n, this.#width]);
      return {
        queries: chosen(p.queries).reshape([H, n, d]),
        cos: gather(tables.cos, rows),
        sin: gather(tables.sin, rows),
        features: affine(seen, 1),
        weights,
        means,
        logits: this.#features.exactFirst ? withoutFirst(logits) : logits,
      };
    });
    this.#groups.push(group);
    this.#queries += n;
    const { sums } = await readOut(() => {
      const weighted = mul(group.weights, group.logits);
      const pulled = matmul(weighted.reshape([H * n, S]), group.features);
      return { sums: this.#pull(group, pulled, sum(weighted)) };
    });
    group.logits.dispose();
    accumulate(this.#target, sums);
  }

  /** `Σ qᵀ (pulled - mean ū)` of each head `[H, d, w]`: `pulled [H n, w]` is Σ p e u, `mean [H, n, 1]` is Σ p e. */
  #pull(group: Group, pulled: Tensor, mean: Tensor): Tensor {
    const centred = sub(pulled.reshape(group.means.shape), mul(mean, group.means));
    const back = this.#turn(centred.permute(1, 0, 2), group, -1).permute(1, 0, 2);
    return matmul(group.queries.transpose(), back);
  }

  /** Rotates the features of `x[n, heads, w]` by the positions of queries; a sign of -1 turns back. */
  #turn(x: Tensor, tables: Rotation, sign: 1 | -1): Tensor {
    return turnFeatures(x, this.#features.rotated, tables, sign);
  }

  /**
   * Half the negative gradient of the squares, a mean over queries.
   *
   * @param maps - For each head `[d, w]`.
   */
  async gradient(maps: readonly Matrix[]): Promise<Matrix[]> {
    const sums = await this.#products(maps);
    return this.#perHead(this.#target.map((target, i) => target - sums[i]!));
  }

  /**
   * What a change of the maps takes from {@link gradient}.
   *
   * @param maps - For each head `[d, w]`.
   */
  async curvature(maps: readonly Matrix[]): Promise<Matrix[]> {
    return this.#perHead(await this.#products(maps));
  }

  async #products(maps: readonly Matrix[]): Promise<Float64Array> {
    const { heads: H, headDim: d } = this.#source.attention;
    const width = this.#width;
    const total = new Float64Array(H * d * width);
    for (const group of this.#groups) {
      const [, n, S] = group.weights.shape as [number, number, number];
      const { sums } = await readOut(() => {
        const map = upload(group.features.backend, stackRows(maps)).reshape([H, d, width]);
        const asked = matmul(group.queries, map).permute(1, 0, 2);
        const seen = this.#turn(asked, group, 1).permute(1, 0, 2).reshape([H, n, width]);
        const logits = matmul(seen.reshape([H * n, width]), group.features.transpose());
        const weighted = mul(group.weights, logits.reshape([H, n, S]));
        const pulled = matmul(weighted.reshape([H * n, S]), group.features);
        return { sums: this.#pull(group, pulled, sum(mul(seen, group.means))) };
      });
      accumulate(total, sums);
    }
    return total;
  }

  #perHead(sums: Float64Array): Matrix[] {
    const { heads, headDim } = this.#source.attention;
    return meansPerHead(sums, heads, headDim, this.#width, this.#queries);
  }

  /** The mean over queries of the covariance of u under the attention, `[w, w]` for each head. */
  async featureMoments(): Promise<Matrix[]> {
    const { heads: H } = this.#source.attention;
    const width = this.#width;
    const total = new Float64Array(H * width * width);
    const perGroup = Math.ceil(MOMENT_QUERIES / this.#groups.length);
    let count = 0;
    for (const group of this.#groups) {
      const n = group.weights.shape[1]!;
      const step = Math.max(1, n / perGroup);
      for (let at = step / 2; at < n; at += step) {
        const { sums } = await readOut(() => this.#covariance(group, Math.floor(at)));
        accumulate(total, sums);
        count++;
      }
    }
    return meansPerHead(total, H, width, width, count);
  }

  /** The covariances of u under the attention of one query. */
  #covariance(group: Group, query: number): Record<"sums", Tensor> {
    const [S, width] = group.features.shape as [number, number];
    const H = group.weights.shape[0]!;
    const row = (of: Tensor): Tensor => of.slice(0, query, query + 1).expand([S, of.shape[1]!]);
    const tables = { cos: row(group.cos), sin: row(group.sin) };
    const u = this.#turn(group.features.reshape([S, 1, width]), tables, -1).reshape([S, width]);
    const p = group.weights.slice(1, query, query + 1).reshape([H, S]);
    const deviations = sub(u, matmul(p, u).reshape([H, 1, width])); // [H, S, w]
    const weighted = mul(p.reshape([H, S, 1]), deviations);
    return { sums: matmul(weighted.transpose(), deviations) };
  }

  /** Frees what is kept of the windows. */
  [Symbol.dispose](): void {
    for (const group of this.#groups) group[Symbol.dispose]();
    this.#groups.length = 0;
  }
}

/**
 * Rotates what is rotated of features, or of what asks for them.
 *
 * @param x - `[n, heads, w]`, the rotated ones last.
 * @param rotated - Radians per position of each of their keys.
 * @param tables - Of all of them side by side, `[n, pairs]`.
 * @param sign - -1 turns back.
 */
export function turnFeatures(
  x: Tensor,
  rotated: KeyFeatures["rotated"],
  { cos, sin }: Rotation,
  sign: 1 | -1,
): Tensor {
  let at = x.shape[2]! - 2 * cos.shape[1]!;
  let pair = 0;
  const parts = at > 0 ? [x.slice(2, 0, at)] : [];
  for (const { length } of rotated) {
    const table = (of: Tensor): Tensor => of.slice(1, pair, pair + length);
    const part = x.slice(2, at, at + 2 * length);
    parts.push(rope(part, table(cos), affine(table(sin), sign), { interleaved: false }));
    at += 2 * length;
    pair += length;
  }
  return concat(parts, 2);
}

/** Zeros for the first key of `[H, n, S]`. */
function withoutFirst(logits: Tensor): Tensor {
  const [H, n, S] = logits.shape as [number, number, number];
  const none = affine(logits.slice(2, 0, 1), 0);
  return S === 1 ? none.reshape([H, n, 1]) : concat([none, logits.slice(2, 1, S)], 2);
}

/** Means of sums `[H, rows, cols]` as a matrix for each head. */
function meansPerHead(
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
