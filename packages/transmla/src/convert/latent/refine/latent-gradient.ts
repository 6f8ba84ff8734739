import { add, attention, matmul, mul, rope, sub, sum, type Tensor } from "@transmla/core";

import type { GroupedAttention } from "../../../model/config/model-config.ts";
import { latentRows, type LatentTensors } from "../latent-layer.ts";
import type { Goal } from "../latent-run.ts";
import { attentionGradient } from "./attention-gradient.ts";

/** The matrices of a latent layer whose heads read keys and values of their own, on a backend. */
export type LayerTensors = LatentTensors & { readonly output: Tensor };

/** For each matrix its gradient, `[out, in]`. */
export type LayerGradients = Readonly<
  Record<Exclude<keyof LayerTensors, "cos" | "sin" | "queryDown">, Tensor>
> & { readonly queryDown?: Tensor };

/**
 * The gradient of half the squared errors of a layer on a window, `Σ w |y - target|² / 2`, by all of its matrices.
 *
 * @param x - The normalised inputs `[T, D]`.
 * @param w - The layer; `keyUp` and `valueUp` are `[H d, r]`.
 * @param c - The attention of the source.
 * @param goal - What its outputs should be, and how much tokens count.
 * @returns The gradients; the surrounding scope owns them.
 */
export function latentGradient(
  x: Tensor,
  w: LayerTensors,
  c: GroupedAttention,
  goal: Pick<Goal, "target" | "weights">,
): LayerGradients {
  const { heads: H, headDim: d } = c;
  const [T, ropeDim] = [x.shape[0]!, w.keyRope.shape[0]!];
  const { inputs, asked, latent, q, k, v } = latentRows(x, w, c);
  const heads = attention(q, k, v, { scale: c.scale, causal: true }); // [T, H, d]
  const flat = heads.reshape([T, H * d]);
  const error = sub(matmul(flat, w.output.transpose()), goal.target);
  const outputs = goal.weights ? mul(error, goal.weights) : error;

  const back = matmul(outputs, w.output).reshape([T, H, d]);
  const by = attentionGradient({ q, k, v }, heads, back, c.scale);
  const unrotated = (rows: Tensor): Tensor => {
    const sin = w.sin.slice(0, 0, T);
    const negative = sub(sin, add(sin, sin));
    return rope(rows, w.cos.slice(0, 0, T), negative, { interleaved: false });
  };
  const nope = (rows: Tensor): Tensor => rows.slice(2, 0, d).reshape([T, H * d]);
  const rotated = (rows: Tensor): Tensor => rows.slice(2, d, d + ropeDim);
  const queryNope = nope(by.q);
  const queryRope = unrotated(rotated(by.q)).reshape([T, H * ropeDim]);
  const overHeads = sum(rotated(by.k).permute(0, 2, 1)).reshape([T, 1, ropeDim]);
  const keyRope = unrotated(overHeads).reshape([T, ropeDim]);
  const [keys, values] = [nope(by.k), nope(by.v)];
  const latents = add(matmul(keys, w.keyUp), matmul(values, w.valueUp));

  const product = (rows: Tensor, from: Tensor): Tensor => matmul(rows.transpose(), from);
  return {
    output: product(outputs, flat),
    queryNope: product(queryNope, asked),
    queryRope: product(queryRope, asked),
    keyUp: product(keys, latent),
    valueUp: product(values, latent),
    keyRope: product(keyRope, inputs),
    latent: product(latents, inputs),
    ...(w.queryDown && {
      queryDown: product(
        add(matmul(queryNope, w.queryNope), matmul(queryRope, w.queryRope)),
        inputs,
      ),
    }),
  };
}
