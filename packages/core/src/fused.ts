import { apply, type Composition } from "./apply.ts";
import type { AttentionAttributes, Backend, FusedOps, GateFunction, Ops } from "./backend.ts";
import { ArgumentError, fail, ShapeError } from "./errors.ts";
import {
  add,
  affine,
  cast,
  concat,
  div,
  full,
  gather,
  less,
  matmul,
  max,
  mul,
  requireFloats,
  requireFloatsAndBlocks,
  sub,
  sum,
  unary,
} from "./ops.ts";
import type { Shape } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

// A fused operation is a name that a backend may implement, the shape of its result, and its meaning: a composition
// in f32, which is the specification, the fallback and the test oracle in one.

/** The meaning of every fused operation. */
const compositions: { readonly [K in keyof FusedOps]: Composition<Ops[K]> } = {
  softmax: ([x]) => {
    if (x!.shape.at(-1) === 0) return affine(x!, 1);
    const e = unary("exp", sub(x!, max(x!)));
    return div(e, sum(e));
  },

  rmsNorm: ([x, weight], { eps, offset }) => {
    const meanSquare = affine(sum(mul(x!, x!)), 1 / x!.shape.at(-1)!);
    return mul(mul(x!, unary("rsqrt", meanSquare, 1, eps)), affine(weight!, 1, offset));
  },

  rope: ([x, cos, sin], { interleaved }) => {
    const [T, H, D] = x!.shape as [number, number, number];
    const half = D / 2;
    // Pairs on the last axis: [T, H, half, 2] as stored when interleaved, [T, H, 2, half] exchanged otherwise.
    const pairs = interleaved
      ? x!.reshape([T, H, half, 2])
      : x!.reshape([T, H, 2, half]).permute(0, 1, 3, 2);
    const angle = (table: Tensor): Tensor => table.reshape([T, 1, half, 1]);
    const [a, b] = [pairs.slice(3, 0, 1), pairs.slice(3, 1, 2)];
    const [c, s] = [angle(cos!), angle(sin!)];
    const rotated = concat([sub(mul(a, c), mul(b, s)), add(mul(b, c), mul(a, s))], 3);
    return (interleaved ? rotated : rotated.permute(0, 1, 3, 2)).reshape([T, H, D]);
  },

  attention: ([q, k, v], { scale, causal, window, cap }) => {
    const [T, H, Dk] = q!.shape as [number, number, number];
    const [S, G, Dv] = v!.shape as [number, number, number];
    const perGroup = H / G;
    // [G, H/G * T, Dk] against [G, Dk, S]: the heads of a group share a key head without copying it.
    const grouped = q!.permute(1, 0, 2).reshape([G, perGroup * T, Dk]);
    let scores = affine(matmul(grouped, k!.permute(1, 2, 0)), scale);
    if (cap !== undefined) scores = affine(unary("tanh", scores, 1 / cap), cap);
    if (causal || window !== undefined) {
      const hidden = hiddenKeys(q!.backend, T, S, causal, window);
      scores = add(scores.reshape([G, perGroup, T, S]), hidden).reshape([G, perGroup * T, S]);
    }
    const mixed = matmul(compositions.softmax([scores], {}), v!.permute(1, 0, 2)); // [G, H/G * T, Dv]
    return mixed.reshape([H, T, Dv]).permute(1, 0, 2).reshape([T, H, Dv]);
  },

  gatedActivation: ([gate, up], { fn }) => mul(unary(fn, gate!), up!),

  expertMatmul: ([x, weights, ids]) => {
    const [E, m, n] = weights!.shape as [number, number, number];
    const chosen = gather(weights!.reshape([E, m * n]), ids!.reshape([ids!.size])); // [ids, m * n]
    const rows = x!.expand([...ids!.shape, n]).reshape([ids!.size, 1, n]);
    const out = matmul(rows, chosen.reshape([ids!.size, m, n]).transpose());
    return out.reshape([...ids!.shape, m]);
  },
};

/** `[T, S]`: a large negative number where a query must not look at a key. */
function hiddenKeys(
  backend: Backend,
  T: number,
  S: number,
  causal: boolean,
  window: number | undefined,
): Tensor {
  const queryAt = full(backend, [T], S - T, 1).reshape([T, 1]);
  const keyAt = full(backend, [S], 0, 1);
  const future = causal ? less(queryAt, keyAt) : null;
  const past = window === undefined ? null : less(affine(keyAt, 1, window - 1), queryAt);
  const hidden = future && past ? add(future, past) : (future ?? past)!;
  return affine(hidden, -1e30);
}

/** Runs a composition in f32 whatever the dtypes of the inputs, and rounds once at the end. */
function inFloat32<A>(composition: Composition<A>): Composition<A> {
  return (inputs, attributes) => {
    const isWide = ({ dtype }: Tensor): boolean =>
      dtype === "f32" || dtype === "i32" || dtype === "u32";
    if (inputs.every(isWide)) return composition(inputs, attributes);
    const wide = inputs.map((x) => (isWide(x) ? x : cast(x, "f32")));
    return cast(composition(wide, attributes), inputs[0]!.dtype);
  };
}

function run<K extends keyof FusedOps>(
  name: K,
  shape: Shape,
  inputs: readonly Tensor[],
  attributes: Ops[K],
): Tensor {
  return apply(
    name,
    inputs,
    attributes,
    { shape, dtype: inputs[0]!.dtype },
    inFloat32(compositions[name]),
  );
}

/**
 * Softmax over the last axis: `exp(x - max) / sum(exp(x - max))`.
 *
 * @param x - Floats `[..., n]`.
 */
export function softmax(x: Tensor): Tensor {
  requireFloats("softmax", x);
  if (x.rank === 0) fail(ShapeError, "softmax", "needs an axis", x);
  return run("softmax", x.shape, [x], {});
}

/**
 * Root-mean-square normalisation over the last axis (Zhang & Sennrich 2019): `x / sqrt(mean(x²) + eps) * (weight + offset)`.
 *
 * @param x - Floats `[..., n]`.
 * @param weight - `[n]`.
 * @param attributes - `eps`, and `offset` to be added to the weight: 1 for Gemma, else 0.
 */
export function rmsNorm(x: Tensor, weight: Tensor, attributes: FusedOps["rmsNorm"]): Tensor {
  requireFloats("rmsNorm", x, weight);
  if (weight.rank !== 1 || weight.shape[0] !== x.shape.at(-1)) {
    fail(ShapeError, "rmsNorm", "the weight does not have the size of the last axis", x, weight);
  }
  return run("rmsNorm", x.shape, [x, weight], attributes);
}

/**
 * Rotary position embedding (Su et al. 2021): rotates pairs of components by the angles of the tables. A scheme of
 * frequencies is data, not code.
 *
 * @param x - `[T, H, D]`, D even.
 * @param cos - Cosines `[T, D/2]`.
 * @param sin - Sines `[T, D/2]`.
 * @param attributes - `interleaved`: pairs are (2i, 2i+1) as in DeepSeek, else (i, i + D/2) as in LLaMA.
 */
export function rope(x: Tensor, cos: Tensor, sin: Tensor, attributes: FusedOps["rope"]): Tensor {
  requireFloats("rope", x, cos, sin);
  const [T, , D] = x.shape;
  const tables = [cos, sin].every(
    (table) => table.rank === 2 && table.shape[0] === T && table.shape[1] === D! / 2,
  );
  if (x.rank !== 3 || !tables)
    fail(ShapeError, "rope", "needs x[T, H, D] and tables[T, D/2]", x, cos, sin);
  return run("rope", x.shape, [x, cos, sin], attributes);
}

/**
 * Scaled dot-product attention with grouped heads and separate key and value widths. Queries are the last T of S
 * positions. Serves multi-head, grouped-query and absorbed latent attention: there one key head is shared by all
 * queries, and the values are the first columns of the keys.
 *
 * @param q - `[T, H, Dk]`.
 * @param k - `[S, G, Dk]`, G divides H; may be a strided view of a cache, of floats or of blocks.
 * @param v - `[S, G, Dv]`; may look at the same memory as `k`.
 * @param attributes - Scale, mask and soft cap.
 * @returns `[T, H, Dv]`.
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  attributes: AttentionAttributes,
): Tensor {
  requireFloatsAndBlocks("attention", [q], [k, v]);
  if (q.rank !== 3 || k.rank !== 3 || v.rank !== 3) {
    fail(ShapeError, "attention", "needs q[T, H, Dk], k[S, G, Dk] and v[S, G, Dv]", q, k, v);
  }
  const [T, H, Dk] = q.shape as [number, number, number];
  const [S, G, width] = k.shape as [number, number, number];
  if (Dk !== width)
    fail(ShapeError, "attention", `query width ${Dk} and key width ${width} differ`, q, k, v);
  if (v.shape[0] !== S || v.shape[1] !== G)
    fail(ShapeError, "attention", "keys and values do not match", q, k, v);
  if (G === 0 || H % G !== 0)
    fail(ShapeError, "attention", `${G} key heads do not divide ${H} query heads`, q, k, v);
  if (S === 0) fail(ShapeError, "attention", "there are no keys", q, k, v);
  if (attributes.causal && T > S)
    fail(ShapeError, "attention", `${T} queries, but only ${S} positions`, q, k, v);
  const { window, cap } = attributes;
  if (window !== undefined && !(Number.isInteger(window) && window >= 1)) {
    fail(ArgumentError, "attention", `window ${window} must be a positive integer`);
  }
  if (cap !== undefined && !(cap > 0))
    fail(ArgumentError, "attention", `cap ${cap} must be positive`);
  return run("attention", [T, H, v.shape[2]!], [q, k, v], attributes);
}

/**
 * The gate of a gated feed-forward layer (Shazeer 2020): `fn(gate) * up`.
 *
 * @param gate - Floats.
 * @param up - Floats of the same shape.
 * @param fn - `silu`, or `gelu` in its tanh form.
 */
export function gatedActivation(gate: Tensor, up: Tensor, fn: GateFunction): Tensor {
  requireFloats("gatedActivation", gate, up);
  if (
    gate.dtype !== up.dtype ||
    gate.rank !== up.rank ||
    gate.shape.some((size, i) => size !== up.shape[i])
  ) {
    fail(ShapeError, "gatedActivation", "gate and up differ", gate, up);
  }
  return run("gatedActivation", gate.shape, [gate, up], { fn });
}

/**
 * The product of rows with the matrices of chosen experts, without copying the matrices:
 * `out[..., i, :] = weights[ids[..., i]] · x[..., i, :]`.
 *
 * @param x - `[..., k, n]`, or `[..., 1, n]` to give every expert the same row.
 * @param weights - `[E, m, n]`, as linear layers are stored: output first; floats or blocks.
 * @param ids - `[..., k]`, `i32` or `u32`, each below E.
 * @returns `[..., k, m]`.
 */
export function expertMatmul(x: Tensor, weights: Tensor, ids: Tensor): Tensor {
  requireFloatsAndBlocks("expertMatmul", [x], [weights]);
  const [, m, n] = weights.shape;
  const rows =
    ids.shape.length + 1 === x.rank &&
    x.shape.slice(0, -2).every((size, i) => size === ids.shape[i]);
  const k = x.shape.at(-2);
  if (ids.dtype !== "i32" && ids.dtype !== "u32")
    fail(ShapeError, "expertMatmul", "ids must be i32 or u32", x, weights, ids);
  if (weights.rank !== 3 || x.shape.at(-1) !== n || !rows || (k !== 1 && k !== ids.shape.at(-1))) {
    fail(
      ShapeError,
      "expertMatmul",
      "needs x[..., k, n], weights[E, m, n] and ids[..., k]",
      x,
      weights,
      ids,
    );
  }
  return run("expertMatmul", [...ids.shape, m!], [x, weights, ids], {});
}
