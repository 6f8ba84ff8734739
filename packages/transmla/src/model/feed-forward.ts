import {
  add,
  affine,
  cast,
  div,
  equal,
  expertMatmul,
  full,
  gatedActivation,
  gather,
  matmul,
  max,
  mul,
  softmax,
  sum,
  topK,
  unary,
  type GateFunction,
  type Tensor,
} from "@transmla/core";

import { inDType, linear } from "./attention.ts";
import type { ExpertGroups, ExpertsConfig, ModelConfig } from "./config/model-config.ts";
import type { DenseWeights, ExpertsWeights, FeedForwardWeights } from "./weights.ts";

// Shapes: T tokens, E experts, K experts for each token, G groups of experts.

/**
 * The feed-forward layer over `x[T, hidden]`.
 *
 * @param x - The normalised residual stream.
 * @param w - Dense or expert weights.
 * @param config - The model.
 * @param layer - Which layer.
 */
export function feedForward(
  x: Tensor,
  w: FeedForwardWeights<Tensor>,
  config: ModelConfig,
  layer: number,
): Tensor {
  if (w.kind === "dense") return dense(x, w, config.activation);
  const experts = config.experts[layer];
  if (!experts) throw new TypeError("feed-forward: expert weights under a dense configuration");
  const routed = mixture(x, w, experts, config.activation);
  return w.shared ? add(routed, dense(x, w.shared, config.activation)) : routed;
}

function dense(x: Tensor, w: DenseWeights<Tensor>, activation: GateFunction): Tensor {
  return linear(gatedActivation(linear(x, w.gate), linear(x, w.up), activation), w.down);
}

/** Sends each token through its experts, without reading anything back. */
function mixture(
  x: Tensor,
  w: ExpertsWeights<Tensor>,
  c: ExpertsConfig,
  activation: GateFunction,
): Tensor {
  const [T, hidden] = x.shape as [number, number];
  const { ids, weights } = route(inDType(x, "f32"), w, c); // in 16 bits, close scores tie
  const rows = x.reshape([T, 1, hidden]);
  const h = gatedActivation(
    expertMatmul(rows, w.gate, ids),
    expertMatmul(rows, w.up, ids),
    activation,
  ); // [T, K, width]
  const each = expertMatmul(h, w.down, ids); // [T, K, hidden]
  const y = matmul(weights.reshape([T, 1, c.perToken]), each);
  return inDType(y.reshape([T, hidden]), x.dtype);
}

/** The experts of each token, `ids[T, K]`, and their `weights[T, K]`. */
function route(
  x: Tensor,
  w: ExpertsWeights<Tensor>,
  c: ExpertsConfig,
): { ids: Tensor; weights: Tensor } {
  const logits = matmul(x, w.router.transpose()); // [T, E]
  const scores = c.scoring === "softmax" ? softmax(logits) : unary("sigmoid", logits);
  const ranked = w.correction ? add(scores, w.correction) : scores;
  const ids = topK(c.groups ? inKeptGroups(ranked, c.groups) : ranked, c.perToken);
  const chosen = pick(scores, ids);
  const weights = c.normalised ? div(chosen, affine(sum(chosen), 1, 1e-20)) : chosen; // 1e-20 as DeepSeek has it
  return { ids, weights: affine(weights, c.scale) };
}

/** The elements of `rows[..., n]` at `ids[..., k]`. */
function pick(rows: Tensor, ids: Tensor): Tensor {
  return gather(rows.reshape([...rows.shape, 1]), ids).reshape(ids.shape);
}

/** Sets the scores of all groups but the best to zero. */
function inKeptGroups(scores: Tensor, { count, kept, ranked }: ExpertGroups): Tensor {
  const [T, E] = scores.shape as [number, number];
  const grouped = scores.reshape([T, count, E / count]);
  const strength = ranked === 1 ? max(grouped) : sum(pick(grouped, topK(grouped, ranked))); // [T, G, 1]
  const best = cast(topK(strength.reshape([T, count]), kept), scores.dtype); // [T, kept]
  const groupIds = full(scores.backend, [count], 0, 1, scores.dtype).reshape([count, 1]);
  const mask = sum(equal(best.reshape([T, 1, kept]), groupIds)); // [T, G, 1]: 1 where a group is kept
  return mul(grouped, mask).reshape([T, E]);
}
