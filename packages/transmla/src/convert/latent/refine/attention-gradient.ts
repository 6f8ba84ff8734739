import {
  add,
  affine,
  assign,
  full,
  matmul,
  mul,
  scope,
  softmax,
  sub,
  sum,
  type Tensor,
} from "@transmla/core";

import { range } from "../../host-tensor.ts";
import { futureKeys } from "../steps/query-positions.ts";

/** Attention probabilities that are held at a time. */
const BLOCK_PROBABILITIES = 2 ** 22;

/** Heads of a window: queries and keys `[T, H, Dk]`, values `[T, H, Dv]`. */
export type AttentionHeads = Readonly<Record<"q" | "k" | "v", Tensor>>;

/**
 * The gradient of causal attention, in which every query head has keys and values of its own. Probabilities are computed
 * again, a few queries at a time, so that memory grows with the length of the window and not with its square.
 *
 * @param heads - What attention was computed of.
 * @param outputs - Its outputs `[T, H, Dv]`.
 * @param gradient - The gradient of the outputs, of the same shape.
 * @param scale - Of the scores.
 * @returns The gradients of queries, keys and values; the surrounding scope owns them.
 */
export function attentionGradient(
  { q, k, v }: AttentionHeads,
  outputs: Tensor,
  gradient: Tensor,
  scale: number,
): AttentionHeads {
  const { backend } = q;
  const [T, H] = q.shape as [number, number, number];
  const byHead = (x: Tensor): Tensor => x.permute(1, 0, 2);
  const [queries, keys, values] = [byHead(q), byHead(k), byHead(v)]; // [H, T, D]
  const of = (x: Tensor): Tensor => full(backend, [H, T, x.shape[2]!], 0);
  const grown = { q: of(q), k: of(k), v: of(v) };
  const products = byHead(sum(mul(outputs, gradient))); // [H, T, 1]
  const back = byHead(gradient);
  const perBlock = Math.max(1, Math.floor(BLOCK_PROBABILITIES / (H * T)));
  for (let start = 0; start < T; start += perBlock) {
    const end = Math.min(start + perBlock, T);
    scope(() => {
      const rows = (x: Tensor): Tensor => x.slice(1, start, end); // of the queries of the block
      const seen = (x: Tensor): Tensor => x.slice(1, 0, end); // what they see
      const scores = affine(matmul(rows(queries), seen(keys).transpose()), scale);
      const weights = softmax(add(scores, futureKeys(backend, range(start, end), end)));
      const pull = sub(matmul(rows(back), seen(values).transpose()), rows(products));
      const errors = affine(mul(weights, pull), scale); // gradient of the products of queries and keys
      assign(rows(grown.q), matmul(errors, seen(keys)));
      const more = (into: Tensor, part: Tensor): void => assign(seen(into), add(seen(into), part));
      more(grown.k, matmul(errors.transpose(), rows(queries)));
      more(grown.v, matmul(weights.transpose(), rows(back)));
    });
  }
  return { q: byHead(grown.q), k: byHead(grown.k), v: byHead(grown.v) };
}
