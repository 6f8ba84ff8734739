import { rmsNorm, type Tensor } from "@transmla/core";

import { rotateHeads, type AttentionContext } from "../../model/attention.ts";
import type { ModelConfig } from "../../model/config/model-config.ts";
import type { Rotation } from "./source-layer.ts";

/** How the attention of a model is run over a window. */
export interface WindowAttention {
  /** Tables of the positions of the window, or of more. */
  readonly rotation: Rotation;
  /** Whether pairs are (2i, 2i+1): not when absent. */
  readonly interleaved?: boolean | undefined;
  /** How heads are normalised, where they are. */
  readonly norms?: Pick<ModelConfig, "normEps" | "normOffset"> | undefined;
  /** Which layer: 0, that of a model of one layer, when absent. */
  readonly layer?: number | undefined;
}

/**
 * What the attention of a model is run in over a sequence that enters whole and is not continued.
 *
 * @param tokens - Its length.
 * @param how - Positions and norms.
 */
export function wholeWindow(
  tokens: number,
  { rotation: { cos, sin }, interleaved = false, norms, layer = 0 }: WindowAttention,
): AttentionContext {
  const tables = { cos: cos.slice(0, 0, tokens), sin: sin.slice(0, 0, tokens) };
  const rotate = (heads: Tensor): Tensor => rotateHeads(heads, tables, interleaved);
  return {
    rotate,
    rotateAll: rotate,
    tables: () => tables,
    layer,
    position: 0,
    norm: (x, weight) =>
      norms ? rmsNorm(x, weight, { eps: norms.normEps, offset: norms.normOffset }) : x,
    cache: { append: (_, rows) => rows, first: (rows) => rows().slice(0, 0, 1), firstSeen: 0 },
    window: undefined,
    cap: undefined,
    latentForm: "expanded",
  };
}
