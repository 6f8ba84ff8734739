import {
  add,
  attention,
  cast,
  concat,
  matmul,
  rmsNorm,
  rope,
  type AttentionAttributes,
  type DType,
  type Tensor,
} from "@transmla/core";

import type {
  FactoredAttention,
  GroupedAttention,
  LatentAttention,
} from "./config/model-config.ts";
import type { LayerCache } from "./layer-cache.ts";
import type { RopeTables } from "./rope.ts";
import type {
  FactoredWeights,
  GroupedWeights,
  LatentQueryWeights,
  LatentWeights,
  Linear,
} from "./weights.ts";

// Shapes: T new tokens, S all tokens that are seen, H query heads, G key heads, D head width, R latent width.

/** The norms inside latent attention use this epsilon in Transformers, whatever `rms_norm_eps` is. */
export const LATENT_NORM_EPS = 1e-6;

/** How latent attention is computed: in the latent space, or on keys and values expanded for each head. */
export type LatentForm = "absorbed" | "expanded";

/** What a layer's attention is computed in: the rotation of its positions, its cache, its mask. */
export interface AttentionContext {
  /** Rotates the heads of the new positions, `[T, H, D]`. */
  readonly rotate: (heads: Tensor) => Tensor;
  /** Rotates the heads of all positions that are seen, `[S, H, D]`. */
  readonly rotateAll: (heads: Tensor) => Tensor;
  /** The rotation of the positions from one on to the last that is seen, if the layer has positions. */
  readonly tables: (start: number) => RopeTables | undefined;
  /** Which layer. */
  readonly layer: number;
  /** The first of the new positions. */
  readonly position: number;
  /** Normalises the last axis as the family does. */
  readonly norm: (x: Tensor, weight: Tensor) => Tensor;
  readonly cache: Pick<LayerCache, "append" | "first" | "firstSeen">;
  readonly window: number | undefined;
  /** Soft cap of the scores. */
  readonly cap: number | undefined;
  /** The form of latent attention; by the number of multiplications when absent. */
  readonly latentForm: LatentForm | undefined;
}

/** `x weightᵀ + bias`. */
export function linear(x: Tensor, { weight, bias }: Linear<Tensor>): Tensor {
  const y = matmul(x, weight.transpose());
  return bias ? add(y, inDType(bias, y.dtype)) : y;
}

/** The same numbers in a dtype: the tensor itself where that is its own. */
export const inDType = (x: Tensor, dtype: DType): Tensor =>
  x.dtype === dtype ? x : cast(x, dtype);

/** Mask and scale of a layer's scores. */
export const masked = (scale: number, { window, cap }: AttentionContext): AttentionAttributes => ({
  scale,
  causal: true,
  window,
  cap,
});

/** Rotates the first components of `x[T, H, D]`, two for each pair of the tables; the others stay. */
export function rotateHeads(x: Tensor, tables: RopeTables, interleaved: boolean): Tensor {
  const width = x.shape[2]!;
  const rotated = 2 * tables.cos.shape[1]!;
  if (rotated === width) return rope(x, tables.cos, tables.sin, { interleaved });
  const first = rope(x.slice(2, 0, rotated), tables.cos, tables.sin, { interleaved });
  return concat([first, x.slice(2, rotated, width)], 2);
}

/** Normalises each head, where the family does. */
export function headNorm(
  x: Tensor,
  weight: Tensor | undefined,
  { norm }: AttentionContext,
): Tensor {
  return weight ? norm(x, weight) : x;
}

/** Grouped-query attention (Ainslie et al. 2023) over `x[T, hidden]`. */
export function groupedAttention(
  x: Tensor,
  w: GroupedWeights<Tensor>,
  c: GroupedAttention,
  context: AttentionContext,
): Tensor {
  const T = x.shape[0]!;
  const heads = (projection: Linear<Tensor>, n: number): Tensor =>
    linear(x, projection).reshape([T, n, c.headDim]);
  const q = context.rotate(headNorm(heads(w.q, c.heads), w.queryNorm, context));
  const keys = context.rotate(headNorm(heads(w.k, c.kvHeads), w.keyNorm, context));
  const k = context.cache.append("keys", keys); // [S, G, D]
  const v = context.cache.append("values", heads(w.v, c.kvHeads));
  const y = attention(q, k, v, masked(c.scale, context));
  return linear(y.reshape([T, c.heads * c.headDim]), w.o);
}

/**
 * TransMLA v1 (arXiv 2502.07864, section 4): keys and values are expanded from the cached latents for every head, and
 * RoPE is applied after the expansion, so it cannot be absorbed.
 */
export function factoredAttention(
  x: Tensor,
  w: FactoredWeights<Tensor>,
  c: FactoredAttention,
  context: AttentionContext,
): Tensor {
  const T = x.shape[0]!;
  const queries = linear(x, w.q).reshape([T, c.heads, c.headDim]);
  const q = context.rotate(headNorm(queries, w.queryNorm, context));
  const expanded = (
    stream: string,
    down: Linear<Tensor>,
    up: Linear<Tensor>,
    rank: number,
  ): Tensor => {
    const latent = context.cache.append(stream, linear(x, down).reshape([T, 1, rank]));
    const S = latent.shape[0]!;
    return linear(inDType(latent, x.dtype).reshape([S, rank]), up).reshape([S, c.heads, c.headDim]);
  };
  const keys = expanded("keys", w.keyDown, w.keyUp, c.keyRank);
  const k = context.rotateAll(headNorm(keys, w.keyNorm, context));
  const v = expanded("values", w.valueDown, w.valueUp, c.valueRank);
  const y = attention(q, k, v, masked(c.scale, context));
  return linear(y.reshape([T, c.heads * c.headDim]), w.o);
}

/**
 * Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) over `x[T, hidden]`. Rope parts that are
 * several heads side by side are normalised and rotated head by head.
 */
export function latentAttention(
  x: Tensor,
  w: LatentWeights<Tensor>,
  c: LatentAttention,
  context: AttentionContext,
): Tensor {
  const T = x.shape[0]!;
  const queries = latentQueries(x, w.query).reshape([T, c.heads, c.nopeDim + c.ropeDim]);
  const qNope = queries.slice(2, 0, c.nopeDim); // [T, H, nope]
  const ropeHeads = (rows: Tensor, heads: number, norm: Tensor | undefined): Tensor => {
    const blocks = rows.reshape([T, (heads * c.ropeDim) / c.blockDim, c.blockDim]);
    return context.rotate(headNorm(blocks, norm, context)).reshape([T, heads, c.ropeDim]);
  };
  const qRope = ropeHeads(queries.slice(2, c.nopeDim, c.nopeDim + c.ropeDim), c.heads, w.queryNorm);

  const down = linear(inDType(x, "f32"), w.down);
  const rows = down.slice(1, 0, c.latentRank);
  const latent = w.norm ? latentNorm(rows, w.norm) : rows;
  const kRope = ropeHeads(down.slice(1, c.latentRank, c.latentRank + c.ropeDim), 1, w.keyNorm);
  const cached = context.cache.append(
    "latent",
    concat([latent.reshape([T, 1, c.latentRank]), kRope], 2),
  ); // [S, 1, R + rope]

  const form = context.latentForm ?? cheaperForm(c, T, cached.shape[0]!);
  const attend = form === "absorbed" ? absorbedAttention : expandedAttention;
  return linear(
    attend(qNope, qRope, cached, w, c, context).reshape([T, c.heads * c.valueDim]),
    w.o,
  );
}

/** Its input is f32: in merged models it is so small, for epsilon to rule, that f16 would leave it few bits. */
function latentNorm(x: Tensor, weight: Tensor): Tensor {
  return rmsNorm(x, weight, { eps: LATENT_NORM_EPS, offset: 0 });
}

function latentQueries(x: Tensor, query: LatentQueryWeights<Tensor>): Tensor {
  if (query.kind === "direct") return linear(x, query.q);
  const latent = latentNorm(linear(inDType(x, "f32"), query.down), query.norm);
  return linear(inDType(latent, x.dtype), query.up);
}

/** Compares multiplications: absorbed scores are wider, the expanded form first builds keys and values of all S positions. */
export function cheaperForm(
  c: Pick<LatentAttention, "nopeDim" | "valueDim" | "latentRank" | "ropeDim">,
  T: number,
  S: number,
): LatentForm {
  const perHead = c.nopeDim + c.valueDim;
  const absorbed = T * perHead * c.latentRank + T * S * (2 * c.latentRank + c.ropeDim);
  const expanded = S * perHead * c.latentRank + T * S * (perHead + c.ropeDim);
  return absorbed <= expanded ? "absorbed" : "expanded";
}

type Attend = (
  qNope: Tensor,
  qRope: Tensor,
  cached: Tensor,
  w: LatentWeights<Tensor>,
  c: LatentAttention,
  context: AttentionContext,
) => Tensor;

/** Folds the key up-projection into the queries and the value one behind the scores: one shared key head, no expansion. */
const absorbedAttention: Attend = (qNope, qRope, cached, w, c, context) => {
  const both = w.up.weight.reshape([c.heads, c.nopeDim + c.valueDim, c.latentRank]);
  const valueUp = both.slice(1, c.nopeDim, c.nopeDim + c.valueDim); // [H, value, R]
  const values = cached.slice(2, 0, c.latentRank);
  const scores = masked(c.scale, context);
  let y: Tensor; // [T, H, R]
  if (c.nopeDim === 0) {
    const keys = cached.slice(2, c.latentRank, c.latentRank + c.ropeDim);
    y = attention(qRope, keys, values, scores);
  } else {
    const keyUp = both.slice(1, 0, c.nopeDim); // [H, nope, R]
    const qLatent = matmul(qNope.permute(1, 0, 2), keyUp).permute(1, 0, 2); // [T, H, R]
    y = attention(concat([qLatent, qRope], 2), cached, values, scores);
  }
  return matmul(y.permute(1, 0, 2), valueUp.transpose()).permute(1, 0, 2); // [T, H, value]
};

/** Expands keys and values of all positions for each head, as DeepSeek trains. */
const expandedAttention: Attend = (qNope, qRope, stored, w, c, context) => {
  const S = stored.shape[0]!;
  const cached = inDType(stored, qRope.dtype);
  const latent = cached.slice(2, 0, c.latentRank).reshape([S, c.latentRank]);
  const both = linear(latent, w.up).reshape([S, c.heads, c.nopeDim + c.valueDim]);
  const kRope = cached
    .slice(2, c.latentRank, c.latentRank + c.ropeDim)
    .expand([S, c.heads, c.ropeDim]);
  const values = both.slice(2, c.nopeDim, c.nopeDim + c.valueDim); // [S, H, value]
  if (c.nopeDim === 0) return attention(qRope, kRope, values, masked(c.scale, context));
  const keys = concat([both.slice(2, 0, c.nopeDim), kRope], 2); // [S, H, nope + rope]
  return attention(concat([qNope, qRope], 2), keys, values, masked(c.scale, context));
};
