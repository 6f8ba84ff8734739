import type { GroupedAttention, HuggingFaceConfig } from "../model/config/model-config.ts";
import type { GroupedWeights, Linear } from "../model/weights.ts";
import { copyRows, range, zeros, type HostTensor } from "./host-tensor.ts";

/**
 * A configuration in the format of this library: that of the source, whose rules apply to everything but the attention,
 * and what has become of the attention. No stock runtime has it, so the model type is our own and they refuse it by name.
 *
 * @param source - The configuration of the source.
 * @param attention - The method, and what it states.
 */
export function ownConfig(
  source: HuggingFaceConfig,
  attention: { readonly method: string } & HuggingFaceConfig,
): HuggingFaceConfig {
  return {
    ...source,
    architectures: ["TransmlaForCausalLM"],
    model_type: "transmla",
    transmla: { version: 1, source_model_type: source["model_type"], ...attention },
  };
}

/**
 * The attention tensors of a merged layer, by their names below `self_attn.`, for the runtime of this library: latents are
 * not normalised, and each head inside the merged key is normalised and rotated as in the source, so that norms of heads,
 * biases, and positions of every kind stay what they were.
 *
 * @param w - The source layer.
 * @param c - Its attention.
 */
export function ownMergedTensors(
  w: GroupedWeights<HostTensor>,
  c: GroupedAttention,
): Record<string, HostTensor> {
  const merged = c.kvHeads * c.headDim;
  const perGroup = c.heads / c.kvHeads;
  const out: Record<string, HostTensor> = {};
  const put = (name: string, { weight, bias }: Linear<HostTensor>): void => {
    out[`${name}.weight`] = weight;
    if (bias) out[`${name}.bias`] = bias;
  };
  /** Queries in the slots of their kv heads. */
  const slots = (rows: HostTensor): HostTensor => {
    const all = zeros(c.heads * merged, ...rows.shape.slice(1));
    for (let head = 0; head < c.heads; head++) {
      const at = head * merged + Math.floor(head / perGroup) * c.headDim;
      copyRows(all, at, rows, range(head * c.headDim, (head + 1) * c.headDim));
    }
    return all;
  };
  const beside = (values: HostTensor, keys: HostTensor): HostTensor => {
    const both = zeros(2 * merged, ...values.shape.slice(1));
    copyRows(both, 0, values, range(0, merged));
    copyRows(both, merged, keys, range(0, merged));
    return both;
  };
  put("q_proj", { weight: slots(w.q.weight), bias: w.q.bias && slots(w.q.bias) });
  put("kv_a_proj_with_mqa", {
    weight: beside(w.v.weight, w.k.weight),
    bias:
      (w.v.bias ?? w.k.bias)
        ? beside(w.v.bias ?? zeros(merged), w.k.bias ?? zeros(merged))
        : undefined,
  });
  const up = zeros(c.heads * c.headDim, merged);
  for (let row = 0; row < c.heads * c.headDim; row++) {
    const group = Math.floor(row / (perGroup * c.headDim));
    up.data[row * merged + group * c.headDim + (row % c.headDim)] = 1;
  }
  out["kv_b_proj.weight"] = up;
  put("o_proj", w.o);
  if (w.queryNorm) out["q_norm.weight"] = w.queryNorm;
  if (w.keyNorm) out["k_norm.weight"] = w.keyNorm;
  return out;
}
