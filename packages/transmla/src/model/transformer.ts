import { add, gatedActivation, gather, matmul, rmsNorm, scope, type Tensor } from "@transmla/core";

import {
  factoredAttention,
  groupedAttention,
  latentAttention,
  linear,
  type AttentionContext,
  type LatentForm,
} from "./attention.ts";
import type { KeyValueCache } from "./cache.ts";
import type { AttentionConfig, ModelConfig } from "./config.ts";
import type { RopeTables } from "./rope.ts";
import type { AttentionWeights, LayerWeights, ModelWeights } from "./weights.ts";

/** Choices of one forward pass. */
export interface ForwardOptions {
  /** Logits of the last position only (the default, for generation) or of all. */
  readonly logits?: "last" | "all";
  /** Forces one form of latent attention; the cheaper one is taken when absent. */
  readonly latentForm?: LatentForm | undefined;
  /**
   * Sees the residual stream `[T, hidden]`: entering layer `index`, and leaving the last one with `index = layers`.
   * The tensor is freed after the call: read it through `keep` or a copy.
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
 * @param options - Which logits.
 * @returns Logits `[T, vocab]`, or `[1, vocab]` for the last position.
 */
export function forward(
  ids: Tensor,
  weights: ModelWeights<Tensor>,
  config: ModelConfig,
  cache: KeyValueCache,
  options: ForwardOptions = {},
): Tensor {
  const T = ids.shape[0]!;
  cache.reserve(T);
  const logits = scope(() => {
    const tables = (end: number, start: number): RopeTables => {
      return { cos: cache.rope.cos.slice(0, start, end), sin: cache.rope.sin.slice(0, start, end) };
    };
    const end = cache.length + T;
    const positions = { tables: tables(end, cache.length), allTables: tables(end, 0) };
    let x = gather(weights.embeddings, ids);
    weights.layers.forEach((layer, index) => {
      options.onHidden?.(index, x);
      const { interleaved } = config.rope;
      const context = {
        ...positions,
        interleaved,
        cache: cache.layers[index]!,
        window: config.windows[index],
      };
      const before = x;
      x = scope(() =>
        decoderLayer(before, layer, config, { ...context, latentForm: options.latentForm }),
      );
      before.dispose();
    });
    options.onHidden?.(config.layers, x);
    const last = options.logits === "all" ? x : x.slice(0, T - 1, T);
    const normed = rmsNorm(last, weights.norm, { eps: config.normEps, offset: 0 });
    return matmul(normed, weights.head.transpose());
  });
  cache.advance(T);
  return logits;
}

/** One layer: attention and feed-forward, each on the normalised residual stream and added to it. */
function decoderLayer(
  x: Tensor,
  w: LayerWeights<Tensor>,
  config: ModelConfig,
  context: AttentionContext,
): Tensor {
  const norm = (stream: Tensor, weight: Tensor): Tensor =>
    rmsNorm(stream, weight, { eps: config.normEps, offset: 0 });
  const y = add(x, attend(norm(x, w.attentionNorm), w.attention, config.attention, context));
  const h = norm(y, w.feedForwardNorm);
  return add(y, linear(gatedActivation(linear(h, w.gate), linear(h, w.up), "silu"), w.down));
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
  throw new TypeError(`attention: ${w.kind} weights under a ${c.kind} configuration`);
}
