// A whole decoder in plain f64 loops, from config.json and the tensors of a checkpoint: LLaMA, Mistral, Qwen2, Qwen3, Mixtral
// with grouped-query attention, and DeepSeek-V3 without experts.
import type { HostTensor } from "../../../src/convert/host-tensor.ts";
import type { HuggingFaceConfig } from "../../../src/model/config/model-config.ts";
import { groupedAttention, linear, rmsNorm, softmax, sum, type Rows } from "./attention.ts";
import { deepseekAttention, linearOf, type Tensors } from "./deepseek.ts";
import { rotationOf, type RopeParameters } from "./rope.ts";

interface DecoderConfig {
  readonly model_type: string;
  readonly hidden_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly head_dim?: number | null;
  readonly rms_norm_eps: number;
  readonly rope_parameters: RopeParameters;
  readonly num_experts_per_tok?: number;
}

/** Logits `[T, vocab]` of every position. */
export function decoderLogits(
  tokens: readonly number[],
  json: HuggingFaceConfig,
  tensors: Tensors,
): Rows {
  const config = json as unknown as DecoderConfig;
  const embeddings = tensors.get("model.embed_tokens.weight")!;
  const norm = (x: Rows, name: string): Rows =>
    rmsNorm(x, tensors.get(`${name}.weight`)!.data, config.rms_norm_eps);
  let x: Rows = tokens.map((token) => rowOf(embeddings, token));
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const prefix = `model.layers.${layer}.`;
    x = sum(
      x,
      attention(norm(x, `${prefix}input_layernorm`), json, tensors, `${prefix}self_attn.`),
    );
    x = sum(x, feedForward(norm(x, `${prefix}post_attention_layernorm`), json, tensors, prefix));
  }
  const head = tensors.get("lm_head.weight") ?? embeddings;
  return linear(norm(x, "model.norm"), { weight: head, bias: undefined });
}

function rowOf({ shape, data }: HostTensor, row: number): number[] {
  const width = shape[1]!;
  return [...data.subarray(row * width, (row + 1) * width)];
}

function attention(x: Rows, json: HuggingFaceConfig, tensors: Tensors, prefix: string): Rows {
  const config = json as unknown as DecoderConfig;
  if (config.model_type === "deepseek_v3") return deepseekAttention(x, tensors, json, {}, prefix);
  const weights = {
    q: linearOf(tensors, `${prefix}q_proj`),
    k: linearOf(tensors, `${prefix}k_proj`),
    v: linearOf(tensors, `${prefix}v_proj`),
    o: linearOf(tensors, `${prefix}o_proj`),
  };
  const heads = config.num_attention_heads;
  const headDim = config.head_dim ?? config.hidden_size / heads;
  const c = {
    kind: "grouped",
    heads,
    kvHeads: config.num_key_value_heads,
    headDim,
    scale: headDim ** -0.5,
  } as const;
  const [query, key] = ["q_norm", "k_norm"].map((name) => tensors.get(`${prefix}${name}.weight`));
  const rope = { ...rotationOf(config.rope_parameters, headDim), interleaved: false };
  const headNorms = query && key && { query: query.data, key: key.data };
  return groupedAttention(x, weights, c, rope, headNorms && { headNorms });
}

/** SwiGLU: `down(silu(gate(x)) * up(x))`. */
function gated(
  x: Rows,
  tensors: Tensors,
  [gate, up, down]: readonly [string, string, string],
): Rows {
  const gates = linear(x, linearOf(tensors, gate));
  const values = linear(x, linearOf(tensors, up));
  const product = gates.map((row, t) =>
    row.map((g, i) => (g / (1 + Math.exp(-g))) * values[t]![i]!),
  );
  return linear(product, linearOf(tensors, down));
}

/** One gated layer, or in Mixtral the `num_experts_per_tok` best of several under the softmax of their scores. */
function feedForward(x: Rows, json: HuggingFaceConfig, tensors: Tensors, prefix: string): Rows {
  if ((json as unknown as DecoderConfig).model_type !== "mixtral") {
    return gated(x, tensors, [
      `${prefix}mlp.gate_proj`,
      `${prefix}mlp.up_proj`,
      `${prefix}mlp.down_proj`,
    ]);
  }
  const { num_experts_per_tok: chosen } = json as unknown as DecoderConfig;
  const moe = `${prefix}block_sparse_moe.`;
  return x.map((row) => {
    const scores = linear([row], linearOf(tensors, `${moe}gate`))[0]!;
    const best = scores
      .map((_, e) => e)
      .toSorted((a, b) => scores[b]! - scores[a]!)
      .slice(0, chosen);
    const shares = softmax(best.map((e) => scores[e]!));
    return best
      .map((e, i) => {
        const expert = `${moe}experts.${e}.`;
        return gated([row], tensors, [`${expert}w1`, `${expert}w3`, `${expert}w2`])[0]!.map(
          (y) => y * shares[i]!,
        );
      })
      .reduce((a, b) => a.map((y, i) => y + b[i]!));
  });
}
