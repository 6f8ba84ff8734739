// Attention in plain f64 loops, the independent reference of the specification: it shares types with the library, and
// no code. T tokens, D hidden, H query heads, g kv heads, d head width.
import type { HostTensor } from "../../../src/convert/host-tensor.ts";
import type {
  FactoredAttention,
  GroupedAttention,
  RopeConfig,
} from "../../../src/model/config/model-config.ts";
import type { FactoredWeights, GroupedWeights, Linear } from "../../../src/model/weights.ts";

/** A matrix by rows; one row for each token where it holds activations. */
export type Rows = number[][];

/** `x weightᵀ + bias`: `x [T, in]`, `weight [out, in]`, result `[T, out]`. */
export function linear(x: Rows, { weight, bias }: Linear<HostTensor>): Rows {
  const [outputs, inputs] = weight.shape as [number, number];
  return x.map((row) => {
    const y: number[] = [];
    for (let o = 0; o < outputs; o++) {
      let sum = bias ? bias.data[o]! : 0;
      for (let i = 0; i < inputs; i++) sum += weight.data[o * inputs + i]! * row[i]!;
      y.push(sum);
    }
    return y;
  });
}

/** `x / sqrt(mean(x²) + eps) * weight` for every row. */
export function rmsNorm(x: Rows, weight: ArrayLike<number>, eps: number): Rows {
  return x.map((row) => {
    const meanSquare = row.reduce((sum, value) => sum + value * value, 0) / row.length;
    return row.map((value, i) => (value / Math.sqrt(meanSquare + eps)) * weight[i]!);
  });
}

/** Elementwise sum. */
export function sum(a: Rows, b: Rows): Rows {
  return a.map((row, t) => row.map((value, i) => value + b[t]![i]!));
}

/** Columns `start` to `end - 1`. */
export function columns(x: Rows, start: number, end: number): Rows {
  return x.map((row) => row.slice(start, end));
}

/** `x [T, H d]` as H times `[T, d]`. */
export function splitHeads(x: Rows, heads: number): Rows[] {
  const d = x[0]!.length / heads;
  return Array.from({ length: heads }, (_, h) => columns(x, h * d, (h + 1) * d));
}

/** H times `[T, d]` side by side as `[T, H d]`. */
export function joinHeads(heads: readonly Rows[]): Rows {
  return heads[0]!.map((_, t) => heads.flatMap((head) => head[t]!));
}

/** Softmax of one row. */
export function softmax(scores: readonly number[]): number[] {
  const largest = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - largest));
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / total);
}

/** RoPE: turns pair l of row t by the angle `(start + t) frequency_l`. */
export function rotate(x: Rows, rope: RopeConfig, start = 0): Rows {
  return x.map((row, t) => {
    const turned = [...row];
    rope.frequencies.forEach((frequency, l) => {
      const [first, second] = rope.interleaved
        ? [2 * l, 2 * l + 1]
        : [l, l + rope.frequencies.length];
      const cos = Math.cos((start + t) * frequency) * rope.tableScale;
      const sin = Math.sin((start + t) * frequency) * rope.tableScale;
      turned[first] = row[first]! * cos - row[second]! * sin;
      turned[second] = row[first]! * sin + row[second]! * cos;
    });
    return turned;
  });
}

/** `scale * <q_t, k_n>` for `n <= t`: row t has t + 1 entries. */
export function causalScores(q: Rows, k: Rows, scale: number): Rows {
  return q.map((query, t) => {
    return k.slice(0, t + 1).map((key) => {
      let dot = 0;
      for (let i = 0; i < query.length; i++) dot += query[i]! * key[i]!;
      return scale * dot;
    });
  });
}

/** Softmax of each row of scores, and the average of the values `[T, d_v]` under it. */
export function average(scores: Rows, v: Rows): Rows {
  return scores.map((row) => {
    const p = softmax(row);
    return v[0]!.map((_, i) => p.reduce((total, weight, n) => total + weight * v[n]![i]!, 0));
  });
}

/** What some properties vary in a grouped layer. */
export interface GroupedOptions {
  /** The position of the first token. */
  readonly start?: number;
  /** Weights `[d]` of an RMSNorm of every query and key head before RoPE, as in Qwen3. */
  readonly headNorms?: { readonly query: ArrayLike<number>; readonly key: ArrayLike<number> };
}

/** The kv head that query head h reads. */
export function kvHead(h: number, c: GroupedAttention): number {
  return Math.floor(h / (c.heads / c.kvHeads));
}

/** The attention logits of every query head, `[T, <= T]` each. */
export function groupedScores(
  x: Rows,
  w: GroupedWeights<HostTensor>,
  c: GroupedAttention,
  rope: RopeConfig,
  { start = 0, headNorms }: GroupedOptions = {},
): Rows[] {
  const normed = (head: Rows, weight: ArrayLike<number> | undefined): Rows =>
    weight ? rmsNorm(head, weight, 1e-6) : head;
  const q = splitHeads(linear(x, w.q), c.heads).map((head) => normed(head, headNorms?.query));
  const k = splitHeads(linear(x, w.k), c.kvHeads).map((head) => normed(head, headNorms?.key));
  return q.map((head, h) => {
    return causalScores(rotate(head, rope, start), rotate(k[kvHead(h, c)]!, rope, start), c.scale);
  });
}

/** Grouped-query attention: `x [T, D]` to `[T, D]`. */
export function groupedAttention(
  x: Rows,
  w: GroupedWeights<HostTensor>,
  c: GroupedAttention,
  rope: RopeConfig,
  options: GroupedOptions = {},
): Rows {
  const v = splitHeads(linear(x, w.v), c.kvHeads);
  const heads = groupedScores(x, w, c, rope, options).map((scores, h) =>
    average(scores, v[kvHead(h, c)]!),
  );
  return linear(joinHeads(heads), w.o);
}

/** TransMLA v1: keys and values of every query head from two latents, RoPE behind the second factor. */
export function factoredAttention(
  x: Rows,
  w: FactoredWeights<HostTensor>,
  c: FactoredAttention,
  rope: RopeConfig,
  start = 0,
): Rows {
  const q = splitHeads(linear(x, w.q), c.heads);
  const k = splitHeads(linear(linear(x, w.keyDown), w.keyUp), c.heads);
  const v = splitHeads(linear(linear(x, w.valueDown), w.valueUp), c.heads);
  const heads = q.map((head, h) => {
    return average(
      causalScores(rotate(head, rope, start), rotate(k[h]!, rope, start), c.scale),
      v[h]!,
    );
  });
  return linear(joinHeads(heads), w.o);
}
