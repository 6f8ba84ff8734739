// A layer as the library merges its heads, in two forms that the reference can run.
import type { HostTensor } from "../../../src/convert/host-tensor.ts";
import { mergedConfig, mergedTensors } from "../../../src/convert/merged.ts";
import { parseConfig } from "../../../src/model/config/families.ts";
import type {
  GroupedAttention,
  HuggingFaceConfig,
  RopeConfig,
} from "../../../src/model/config/model-config.ts";
import type { GroupedWeights } from "../../../src/model/weights.ts";
import { kvHead } from "../reference/attention.ts";
import type { Tensors } from "../reference/deepseek.ts";
import type { GroupedLayer } from "./layers.ts";

/** The tensors and the config.json of the layer as DeepSeek-V3. */
export function deepseekLayer({ x, weights, attention, rope }: GroupedLayer): {
  readonly tensors: Tensors;
  readonly json: HuggingFaceConfig;
} {
  const biased = [weights.q, weights.k, weights.v, weights.o].some(
    ({ bias }) => bias !== undefined,
  );
  const llama = parseConfig({
    model_type: "llama",
    hidden_size: x[0]!.length,
    intermediate_size: 1,
    num_hidden_layers: 1,
    num_attention_heads: attention.heads,
    num_key_value_heads: attention.kvHeads,
    head_dim: attention.headDim,
    vocab_size: 1,
    max_position_embeddings: 64,
  });
  const config = { ...llama, attention, ropes: [rope] };
  const tensors = new Map(Object.entries(mergedTensors(weights, attention, 1, "f32")));
  return { tensors, json: mergedConfig({}, config, attention, biased) };
}

/** Attention with one key head of width gd and values of width gd for all heads. */
export interface MultiQueryLayer {
  readonly weights: GroupedWeights<HostTensor>;
  readonly attention: GroupedAttention;
  /** The frequencies that the library writes; interleaved pairs. */
  readonly rope: RopeConfig;
}

/**
 * The layer as multi-query attention: keys and queries are those of the merged checkpoint without the zero rows of the
 * nope part, values are all values side by side, and `W_O` reads of them what belongs to the kv head.
 */
export function multiQueryLayer(layer: GroupedLayer): MultiQueryLayer {
  const { weights, attention } = layer;
  const { heads, kvHeads, headDim: d, scale } = attention;
  const { tensors, json } = deepseekLayer(layer);
  const merged = kvHeads * d;
  const query = tensors.get("q_proj.weight")!; // [H (d + gd), D]
  const queryRows = Array.from({ length: heads * merged }, (_, i) => {
    return Math.floor(i / merged) * (d + merged) + d + (i % merged);
  });
  const down = tensors.get("kv_a_proj_with_mqa.weight")!; // [2 gd, D]
  const keyRows = Array.from({ length: merged }, (_, i) => merged + i);
  return {
    weights: {
      q: { weight: rows(query, queryRows), bias: undefined },
      k: { weight: rows(down, keyRows), bias: undefined },
      v: weights.v,
      o: { weight: inSlots(weights.o.weight, attention), bias: weights.o.bias },
    },
    attention: { kind: "grouped", heads, kvHeads: 1, headDim: merged, scale },
    rope: { ...parseConfig(json).ropes[0]!, tableScale: 1 },
  };
}

/** Some rows of a matrix. */
export function rows({ shape, data }: HostTensor, indices: readonly number[]): HostTensor {
  const cols = shape[1]!;
  const picked = indices.flatMap((row) => [...data.subarray(row * cols, (row + 1) * cols)]);
  return { shape: [indices.length, cols], data: Float64Array.from(picked) };
}

/** `W_O [D, H d]` as `[D, H gd]`: the columns of head h in the slot of its kv head, zeros elsewhere. */
function inSlots({ shape, data }: HostTensor, c: GroupedAttention): HostTensor {
  const [hidden, inputs] = shape as [number, number];
  const width = c.heads * c.kvHeads * c.headDim;
  const wide = new Float64Array(hidden * width);
  for (let row = 0; row < hidden; row++) {
    for (let i = 0; i < inputs; i++) {
      const head = Math.floor(i / c.headDim);
      const slot = (head * c.kvHeads + kvHead(head, c)) * c.headDim + (i % c.headDim);
      wide[row * width + slot] = data[row * inputs + i]!;
    }
  }
  return { shape: [hidden, width], data: wide };
}
