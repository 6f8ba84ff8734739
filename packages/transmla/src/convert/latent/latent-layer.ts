import { attention, concat, matmul, type Backend, type Tensor } from "@transmla/core";
import { multiply, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

import type { GroupedAttention } from "../../model/config/model-config.ts";
import { multiplyPairs, type ComplexVector } from "./algebra/complex-pairs.ts";
import { owned, upload } from "./algebra/device.ts";
import { rowsOf, stackRows } from "./algebra/matrices.ts";
import { rotate, rotationTables, withOnes, type SourceAttention } from "./source-layer.ts";
import type { JointLatent } from "./steps/joint-latent.ts";
import type { Slots } from "./steps/slots.ts";

/**
 * Latent attention in f64, `[out, in]`, half-split pairs, with the softmax scale of the source. Where the source has
 * biases, everything that acts on the inputs has them as one more column: D stands for D + 1.
 */
export interface LatentLayer {
  /** `[rank, D]`: a latent that all queries are made from; absent where they are made from the inputs. */
  readonly queryDown?: Matrix | undefined;
  /** `[H d, D]`, or `[H d, rank]` with `queryDown`: queries for the keys without rotation. */
  readonly queryNope: Matrix;
  /** `[H d_r, D]`, or `[H d_r, rank]`: queries for the rotated key. */
  readonly queryRope: Matrix;
  /** `[d_r, D]`: the rotated key. */
  readonly keyRope: Matrix;
  /** `[r, D]`: the latent. */
  readonly latent: Matrix;
  /** `[g d, r]`: keys of each kv head from the latent; `[H d, r]` where every head reads keys of its own. */
  readonly keyUp: Matrix;
  /** `[g d, r]`: values of each kv head from the latent; `[H d, r]` where every head reads values of its own. */
  readonly valueUp: Matrix;
  /** `[D, H d]`. */
  readonly output: Matrix;
  /** `[D]`: that of the source, where it has biases. */
  readonly outputBias?: Float64Array | undefined;
}

/**
 * Folds slots, phases and latent into the weights of a layer.
 *
 * @param source - The layer.
 * @param slots - What keeps its rotation.
 * @param phases - For each head the factors of its queries.
 * @param latent - The latent of keys and values.
 * @param options - The kernels.
 */
export function assembleLatent(
  source: SourceAttention,
  slots: Slots,
  phases: readonly ComplexVector[],
  latent: JointLatent,
  options: LinalgOptions = {},
): LatentLayer {
  const { heads, kvHeads, headDim: d } = source.attention;
  const queries = phases.map((_, h) => rowsOf(source.q, h * d, (h + 1) * d));
  const slotQueries = queries.map((query, h) => {
    const group = Math.floor(h / (heads / kvHeads));
    const rebuild = rowsOf(slots.rebuild, group * d, (group + 1) * d);
    return multiply(rebuild, query, { ...options, transposeA: true });
  });
  return {
    queryNope: stackRows(queries.map((query, h) => multiplyPairs(phases[h]!, query))),
    queryRope: stackRows(slotQueries),
    keyRope: multiply(slots.read, source.k, options),
    latent: multiply(latent.encode, stackRows([source.k, source.v]), options),
    keyUp: latent.decodeKeys,
    valueUp: latent.decodeValues,
    output: source.o,
  };
}

/** A latent layer on a backend in f32, without its output matrix. */
export type LatentTensors = Readonly<
  Record<Exclude<keyof LatentLayer, "output" | "outputBias" | "queryDown"> | "cos" | "sin", Tensor>
> & { readonly queryDown?: Tensor };

/**
 * Uploads a latent layer.
 *
 * @param backend - Where to.
 * @param layer - The layer.
 * @param frequencies - Of its rotated key.
 * @param positions - The length of the longest window.
 * @returns Tensors that the caller disposes of.
 */
export function uploadLatent(
  backend: Backend,
  layer: LatentLayer,
  frequencies: readonly number[],
  positions: number,
): LatentTensors & Disposable {
  return owned(() => ({
    ...(layer.queryDown && { queryDown: upload(backend, layer.queryDown) }),
    queryNope: upload(backend, layer.queryNope),
    queryRope: upload(backend, layer.queryRope),
    keyRope: upload(backend, layer.keyRope),
    latent: upload(backend, layer.latent),
    keyUp: upload(backend, layer.keyUp),
    valueUp: upload(backend, layer.valueUp),
    ...rotationTables(backend, frequencies, positions),
  }));
}

/** What the attention of a latent layer makes of a window, on the way to its heads. */
export interface LatentRows {
  /** `[T, D]`, or `[T, D + 1]` where a layer has biases. */
  readonly inputs: Tensor;
  /** What queries are made of: the inputs, or a latent of them. */
  readonly asked: Tensor;
  /** `[T, r]`. */
  readonly latent: Tensor;
  /** `[T, H, d + d_r]`. */
  readonly q: Tensor;
  /** `[T, g, d + d_r]`, g the heads that keys are made for. */
  readonly k: Tensor;
  /** `[T, g, d]`. */
  readonly v: Tensor;
}

/**
 * Queries, keys and values of a window; the surrounding scope owns them.
 *
 * @param x - The normalised inputs `[T, D]`.
 * @param w - The layer.
 * @param c - The attention of the source.
 */
export function latentRows(x: Tensor, w: LatentTensors, c: GroupedAttention): LatentRows {
  const inputs = withOnes(x, w.latent.shape[1]!);
  const { heads: H, headDim: d } = c;
  const [g, valueHeads] = [w.keyUp.shape[0]! / d, w.valueUp.shape[0]! / d];
  const T = x.shape[0]!;
  const ropeDim = w.keyRope.shape[0]!;
  const apply = (a: Tensor, weight: Tensor, groups: number): Tensor =>
    matmul(a, weight.transpose()).reshape([T, groups, weight.shape[0]! / groups]);
  const latent = matmul(inputs, w.latent.transpose());
  const rotatedKey = rotate(apply(inputs, w.keyRope, 1), w).expand([T, g, ropeDim]);
  const asked = w.queryDown ? matmul(inputs, w.queryDown.transpose()) : inputs;
  const values = apply(latent, w.valueUp, valueHeads).reshape([T, valueHeads, 1, d]);
  return {
    inputs,
    asked,
    latent,
    q: concat([apply(asked, w.queryNope, H), rotate(apply(asked, w.queryRope, H), w)], 2),
    k: concat([apply(latent, w.keyUp, g), rotatedKey], 2),
    v: values.expand([T, valueHeads, g / valueHeads, d]).reshape([T, g, d]),
  };
}

/**
 * The outputs of all heads `[T, H d]`, before the output matrix; the surrounding scope owns them.
 *
 * @param x - The normalised inputs `[T, D]`.
 * @param w - The layer.
 * @param c - The attention of the source.
 */
export function latentHeads(x: Tensor, w: LatentTensors, c: GroupedAttention): Tensor {
  const { q, k, v } = latentRows(x, w, c);
  const heads = attention(q, k, v, { scale: c.scale, causal: true });
  return heads.reshape([x.shape[0]!, c.heads * c.headDim]);
}
