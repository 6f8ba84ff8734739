import {
  add,
  attention,
  concat,
  full,
  gather,
  matmul,
  mul,
  rope,
  sub,
  tensor,
  type Tensor,
} from "@transmla/core";

import {
  cheaperForm,
  headNorm,
  inDType,
  linear,
  masked,
  type AttentionContext,
} from "./attention.ts";
import type { ProjectedAttention } from "./config/model-config.ts";
import type { RopeTables } from "./rope.ts";
import type { Linear, ProjectedWeights } from "./weights.ts";

// Shapes: T new tokens, S all tokens that are seen, H query heads, g kv heads, d head width, r latent width, d_r width of
// the shared rotated key, m RoPE pairs of a head.
//
// The score of query t and key n is q A c_n + Rot_t(q R) · Rot_n k_n + Rot_t(q P) · Rot_n 1: a latent, a rotated key, and
// a key that is the same at every position and need not be cached. All heads share the three. With an exact first
// position its rows of them are zero, and one more component of queries and keys, its mark, carries its score.

/** Queries, keys and values of the source before RoPE: `[T, H, d]`, `[T, g, d]`, `[T, g, d]`. */
export type SourceRows = Readonly<Record<"q" | "k" | "v", Tensor>>;

/** What mixes the heads of a layer. */
export type ProjectedMaps = Pick<ProjectedWeights<Tensor>, "down" | "up" | "queryUp">;

/** Attention over a projected cache, `x[T, hidden]`. */
export function projectedAttention(
  x: Tensor,
  w: ProjectedWeights<Tensor>,
  c: ProjectedAttention,
  context: AttentionContext,
): Tensor {
  const T = x.shape[0]!;
  // Heads are f32, whatever x is: marks and rotation tables, which are f32, are columns of their queries and keys.
  const heads = (projection: Linear<Tensor>, n: number): Tensor =>
    inDType(linear(x, projection), "f32").reshape([T, n, c.headDim]);
  const q = headNorm(heads(w.q, c.heads), w.queryNorm, context);
  const k = headNorm(heads(w.k, c.kvHeads), w.keyNorm, context);
  const y = projectedHeads({ q, k, v: heads(w.v, c.kvHeads) }, w, c, context);
  return linear(inDType(y.reshape([T, c.heads * c.headDim]), x.dtype), w.o);
}

/**
 * The outputs of all heads `[T, H, d]`, before the output matrix; appends to the cache.
 *
 * @param rows - Of the new tokens.
 * @param w - The maps of the layer.
 * @param c - Its sizes.
 * @param context - Rotation, cache and mask.
 */
export function projectedHeads(
  rows: SourceRows,
  w: ProjectedMaps,
  c: ProjectedAttention,
  context: AttentionContext,
): Tensor {
  const { heads: H, headDim: d } = c;
  const { latentRank: r, pairs } = c.layers[context.layer]!;
  const { cache, position } = context;
  const seenFrom = cache.firstSeen;
  const exact = (): Tensor => concat([context.rotate(rows.k), rows.v], 2);
  const first = c.exactFirst ? inDType(cache.first(exact), "f32") : undefined; // [1, g, 2 d]
  const stored = inDType(cache.append("latent", projectRows(rows, w, c, context)), "f32");
  const [T, S] = [rows.q.shape[0]!, stored.shape[0]!];
  const mark = first && seenFrom === 0 ? firstColumn(stored) : undefined; // [S, 1, 1]
  const latent = stored.slice(2, 0, r);

  const keys = pairs.length > 0 ? [stored.slice(2, r, r + 2 * pairs.length)] : [];
  const tables = context.tables(seenFrom);
  if (tables) keys.push(positionKeys(tables, mark));
  const queries = rotatedQueries(rows.q, w.queryUp, pairs, context.tables(position));
  const bias = w.up.bias?.reshape([H, 2 * d]);
  const markQuery = mark && [firstScores(rows.q, first!, bias?.slice(1, 0, d), c, context)];

  const tail = keys.reduce((width, key) => width + key.shape[2]!, 0);
  const sizes = { nopeDim: d, valueDim: d, latentRank: r, ropeDim: tail };
  const form = context.latentForm ?? cheaperForm(sizes, T, S);
  const { nope, key, value, finish } = (form === "absorbed" ? absorbed : expanded)(
    rows.q,
    latent,
    w.up.weight.reshape([H, 2 * d, r]),
  );
  const marks = mark ? [mark] : [];
  const q = concat([...(markQuery ?? []), nope, ...queries], 2);
  const k = sharedColumns([...marks, key, ...keys]);
  const v = key === value ? k.slice(2, 0, marks.length + r) : sharedColumns([...marks, value]);
  const y = attention(q, k, v, masked(c.scale, context)); // [T, H, (1) + width of values]
  const mixed = finish(y.slice(2, marks.length, y.shape[2]!)); // [T, H, d]
  const valueBias = bias?.slice(1, d, 2 * d); // [H, d]
  const biased = valueBias ? add(mixed, valueBias) : mixed;
  if (!mark) return biased;
  const ownValue = perHead(first!.slice(2, d, 2 * d), c); // [H, d]
  return add(biased, mul(y.slice(2, 0, 1), valueBias ? sub(ownValue, valueBias) : ownValue));
}

/** Latent and rotated key of the new rows, `[T, 1, r + d_r]`; zeros for an exact first position. */
function projectRows(
  { k, v }: SourceRows,
  { down }: ProjectedMaps,
  c: ProjectedAttention,
  { layer, position, tables }: AttentionContext,
): Tensor {
  const T = k.shape[0]!;
  const { latentRank: r, pairs } = c.layers[layer]!;
  const width = c.kvHeads * c.headDim;
  const y = concat([k.reshape([T, width]), v.reshape([T, width])], 1);
  const both = linear(y, down).reshape([T, 1, r + 2 * pairs.length]);
  const key = both.slice(2, r, r + 2 * pairs.length);
  const rows =
    pairs.length > 0
      ? concat([both.slice(2, 0, r), rotatePairs(key, tables(position)!, pairs)], 2)
      : both;
  if (!c.exactFirst || position > 0) return rows;
  const none = full(rows.backend, [1, 1, rows.shape[2]!], 0);
  return T === 1 ? none : concat([none, rows.slice(0, 1, T)], 0);
}

/** How queries meet the latent: where its up-projections are applied. */
interface Meeting {
  /** `[T, H, width of a key]`. */
  readonly nope: Tensor;
  /** `[S, 1 or H, width]`. */
  readonly key: Tensor;
  /** `[S, 1 or H, width]`; the key itself where they are the same. */
  readonly value: Tensor;
  /** From mixed values to the outputs of heads. */
  readonly finish: (mixed: Tensor) => Tensor;
}

/** Folds the key up-projection into the queries and the value one behind the scores. */
function absorbed(q: Tensor, latent: Tensor, up: Tensor): Meeting {
  const d = q.shape[2]!;
  const byHead = (x: Tensor): Tensor => x.permute(1, 0, 2);
  return {
    nope: byHead(matmul(byHead(q), up.slice(1, 0, d))),
    key: latent,
    value: latent,
    finish: (mixed) => byHead(matmul(byHead(mixed), up.slice(1, d, 2 * d).transpose())),
  };
}

/** Expands keys and values of all positions for each head. */
function expanded(q: Tensor, latent: Tensor, up: Tensor): Meeting {
  const [H, width, r] = up.shape as [number, number, number];
  const S = latent.shape[0]!;
  const both = matmul(latent.reshape([S, r]), up.reshape([H * width, r]).transpose());
  const heads = both.reshape([S, H, width]);
  const d = width / 2;
  return {
    nope: q,
    key: heads.slice(2, 0, d),
    value: heads.slice(2, d, width),
    finish: (mixed) => mixed,
  };
}

/** Columns side by side, each for all heads or for every one. */
function sharedColumns(parts: readonly Tensor[]): Tensor {
  const heads = Math.max(...parts.map(({ shape }) => shape[1]!));
  return concat(
    parts.map((part) => part.expand([part.shape[0]!, heads, part.shape[2]!])),
    2,
  );
}

/** Queries of the rotated key and of the positions, `[T, H, d_r]` and `[T, H, 2 m]`. */
function rotatedQueries(
  q: Tensor,
  up: Tensor,
  pairs: readonly number[],
  tables: RopeTables | undefined,
): Tensor[] {
  if (!tables) return [];
  const [, H, d] = q.shape as [number, number, number];
  const width = up.shape[0]! / H;
  const maps = up.reshape([H, width, d]).transpose(); // [H, d, width]
  const all = matmul(q.permute(1, 0, 2), maps).permute(1, 0, 2); // [T, H, width]
  const slots = 2 * pairs.length;
  const positional = rope(all.slice(2, slots, width), tables.cos, tables.sin, HALF_SPLIT);
  if (slots === 0) return [positional];
  return [rotatePairs(all.slice(2, 0, slots), tables, pairs), positional];
}

/** Component l of a head and component l + m are a pair. */
const HALF_SPLIT = { interleaved: false } as const;

/** Rotates `x[T, heads, 2 n]`, pair i by the frequency of pair `pairs[i]` of the tables. */
function rotatePairs(x: Tensor, tables: RopeTables, pairs: readonly number[]): Tensor {
  const chosen = tensor(x.backend, pairs, [pairs.length], "i32");
  const lent = (table: Tensor): Tensor => gather(table.transpose(), chosen).transpose();
  return rope(x, lent(tables.cos), lent(tables.sin), HALF_SPLIT);
}

/** `[S, 1, 2 m]`: the rotated key of every position whose components are 1 and 0; zero where the mark is. */
function positionKeys({ cos, sin }: RopeTables, mark: Tensor | undefined): Tensor {
  const keys = concat([cos, sin], 1);
  const [S, width] = keys.shape as [number, number];
  const rows = keys.reshape([S, 1, width]);
  if (!mark) return rows;
  const none = full(keys.backend, [1, 1, width], 0);
  return S === 1 ? none : concat([none, rows.slice(0, 1, S)], 0);
}

/** `[S, 1, 1]`: 1 at the first position. */
function firstColumn({ backend, shape }: Tensor): Tensor {
  const one = full(backend, [1, 1, 1], 1);
  return shape[0] === 1 ? one : concat([one, full(backend, [shape[0]! - 1, 1, 1], 0)], 0);
}

/** The scores of the first position, `[T, H, 1]`, less those that the key bias adds to all others. */
function firstScores(
  q: Tensor,
  first: Tensor,
  keyBias: Tensor | undefined,
  c: ProjectedAttention,
  { rotate }: AttentionContext,
): Tensor {
  const { heads: H, headDim: d } = c;
  const byHead = (x: Tensor): Tensor => x.permute(1, 0, 2); // [H, T, d]
  const key = perHead(first.slice(2, 0, d), c).reshape([H, d, 1]);
  const scores = matmul(byHead(rotate(q)), key);
  const shared = keyBias && matmul(byHead(q), keyBias.reshape([H, d, 1]));
  return byHead(shared ? sub(scores, shared) : scores);
}

/** `[H, width]`: the part of its kv head for every query head. */
function perHead(part: Tensor, { heads, kvHeads }: ProjectedAttention): Tensor {
  const width = part.shape[2]!;
  return part
    .reshape([kvHeads, 1, width])
    .expand([kvHeads, heads / kvHeads, width])
    .reshape([heads, width]);
}
