import { factoredTensors, type FactoredInit } from "../../../src/convert/factored.ts";
import type { HostTensor } from "../../../src/convert/host-tensor.ts";
import type {
  FactoredAttention,
  GroupedAttention,
} from "../../../src/model/config/model-config.ts";
import type { FactoredWeights, GroupedWeights } from "../../../src/model/weights.ts";
import { linearOf } from "../reference/deepseek.ts";

/** What the library makes of a layer with the factored conversion, as the reference takes it. */
export function factoredLayer(
  weights: GroupedWeights<HostTensor>,
  c: GroupedAttention,
  init: FactoredInit,
): { readonly weights: FactoredWeights<HostTensor>; readonly attention: FactoredAttention } {
  const tensors = new Map(Object.entries(factoredTensors(weights, c, init)));
  const keyDown = linearOf(tensors, "k_a_proj");
  const valueDown = linearOf(tensors, "v_a_proj");
  return {
    weights: {
      q: linearOf(tensors, "q_proj"),
      keyDown,
      keyUp: linearOf(tensors, "k_b_proj"),
      valueDown,
      valueUp: linearOf(tensors, "v_b_proj"),
      o: linearOf(tensors, "o_proj"),
    },
    attention: {
      kind: "factored",
      heads: c.heads,
      headDim: c.headDim,
      keyRank: keyDown.weight.shape[0]!,
      valueRank: valueDown.weight.shape[0]!,
      scale: c.scale,
    },
  };
}
