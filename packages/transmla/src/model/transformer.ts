import { add, affine, gather, matmul, rmsNorm, scope, unary, type Tensor } from "@transmla/core";

import {
  factoredAttention,
  groupedAttention,
  inDType,
  latentAttention,
  rotateHeads,
  type AttentionContext,
  type LatentForm,
} from "./attention.ts";
import type { KeyValueCache } from "./cache.ts";
import type { AttentionConfig, ModelConfig } from "./config/model-config.ts";
import { feedForward } from "./feed-forward.ts";
import { projectedAttention } from "./projected-attention.ts";
import type { AttentionWeights, LayerWeights, ModelWeights } from "./weights.ts";

/** How activations, the numbers that layers compute and pass on, may be stored. The arithmetic is that of f32. */
export type ActivationDType = "f32" | "f16";

/** Both of them. */
export const activationDTypes: readonly ActivationDType[] = ["f32", "f16"];

/** Choices of one forward pass. */
export interface ForwardOptions {
  /** Logits of the last position only (the default, for generation) or of all. */
  readonly logits?: "last" | "all";
  /** Forces one form of latent attention; the cheaper one is taken when absent. */
  readonly latentForm?: LatentForm | undefined;
  /**
   * Sees the residual stream `[T, hidden]`, in the dtype of the activations: entering layer `index`, and leaving the last
   * one with `index = layers`. The tensor is freed after the call: read it through `keep` or a copy.
   */
  readonly onHidden?: ((index: number, hidden: Tensor) => void) | undefined;
}

/**
 * One forward pass of a decoder (pre-norm, gated feed-forward). Records work; nothing is awaited.
 *
 * @param ids - Token ids `[T]`, `i32`.
 * @param weights - The weights.
 * @param config - The model.
 * @param cache - The sequence so far; T positions are appended.
 * @param activations - How activations are stored.
 * @param options - Which logits.
 * @returns Logits `[T, vocab]`, or `[1, vocab]` for the last position, f32.
 */
export function forward(
  ids: Tensor,
  weights: ModelWeights<Tensor>,
  config: ModelConfig,
  cache: KeyValueCache,
  activations: ActivationDType,
  options: ForwardOptions = {},
): Tensor {
  const T = ids.shape[0]!;
  cache.enter(T);
  const logits = scope(() => {
    // The dtype of the residual stream is that of all that layers make of it, whatever the weights are.
    const rows = inDType(gather(weights.embeddings, ids), "f32");
    let x = inDType(affine(rows, config.embeddingScale), activations);
    weights.layers.forEach((layer, index) => {
      options.onHidden?.(index, x);
      const before = x;
      x = scope(() => decoderLayer(before, layer, config, index, cache, options.latentForm));
      before.dispose();
    });
    options.onHidden?.(config.layers, x);
    const last = options.logits === "all" ? x : x.slice(0, T - 1, T);
    const y = matmul(
      normalise(inDType(last, "f32"), weights.norm, config),
      weights.head.transpose(),
    );
    return config.logitCap === undefined
      ? y
      : affine(unary("tanh", y, 1 / config.logitCap), config.logitCap);
  });
  cache.advance(T);
  return logits;
}

const normalise = (x: Tensor, weight: Tensor, { normEps, normOffset }: ModelConfig): Tensor =>
  rmsNorm(x, weight, { eps: normEps, offset: normOffset });

/**
 * One layer: attention and feed-forward, each on the normalised residual stream and added to it.
 *
 * @param x - The residual stream `[T, hidden]`.
 * @param w - The weights of the layer.
 * @param config - The model.
 * @param layer - Which layer.
 * @param cache - The sequence; its length is that before these tokens.
 * @param latentForm - Forces one form of latent attention.
 */
function decoderLayer(
  x: Tensor,
  w: LayerWeights<Tensor>,
  config: ModelConfig,
  layer: number,
  cache: KeyValueCache,
  latentForm?: LatentForm,
): Tensor {
  const norm = (stream: Tensor, weight: Tensor): Tensor => normalise(stream, weight, config);
  const out = (branch: Tensor, weight: Tensor | undefined): Tensor =>
    weight ? norm(branch, weight) : branch;
  const context = { ...positions(x.shape[0]!, config, layer, cache), norm, latentForm };
  const mixed = attend(norm(x, w.attentionNorm), w.attention, config.attention, context);
  const y = add(x, out(mixed, w.attentionOutNorm));
  const moved = feedForward(norm(y, w.feedForwardNorm), w.feedForward, config, layer);
  return add(y, out(moved, w.feedForwardOutNorm));
}

/** Rotation, cache and mask of the next T positions of a layer. */
function positions(
  T: number,
  config: ModelConfig,
  layer: number,
  cache: KeyValueCache,
): Omit<AttentionContext, "norm" | "latentForm"> {
  const end = cache.length + T;
  const tables = cache.rotations[layer];
  const interleaved = config.ropes[layer]?.interleaved ?? false;
  const rotate = (start: number) => (heads: Tensor) =>
    tables ? rotateHeads(heads, tables.range(start, end), interleaved) : heads;
  return {
    rotate: rotate(cache.length),
    rotateAll: rotate(cache.layers[layer]!.firstSeen),
    tables: (start) => tables?.range(start, end),
    layer,
    position: cache.length,
    cache: cache.layers[layer]!,
    window: config.windows[layer],
    cap: config.scoreCap,
  };
}

function attend(
  x: Tensor,
  w: AttentionWeights<Tensor>,
  c: AttentionConfig,
  context: AttentionContext,
): Tensor {
  if (w.kind === "grouped" && c.kind === "grouped") return groupedAttention(x, w, c, context);
  if (w.kind === "factored" && c.kind === "factored") return factoredAttention(x, w, c, context);
  if (w.kind === "latent" && c.kind === "latent") return latentAttention(x, w, c, context);
  if (w.kind === "projected" && c.kind === "projected") {
    return projectedAttention(x, w, c, context);
  }
  throw new TypeError(`attention: ${w.kind} weights under a ${c.kind} configuration`);
}
