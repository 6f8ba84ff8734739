import { fromBf16Bits, toBf16Bits } from "@transmla/core";

import type {
  GroupedAttention,
  HuggingFaceConfig,
  ModelConfig,
} from "../model/config/model-config.ts";
import type { GroupedWeights, Linear } from "../model/weights.ts";
import { copyRows, range, scaled, zeros, type HostTensor } from "./host-tensor.ts";

// Merged heads: all query heads share one key head of width g d, the keys of all kv heads side by side, whose RoPE
// repeats the source's frequencies g times; the values of all kv heads are one latent of width g d. A query occupies
// the slot of its kv head and is zero elsewhere. This is multi-query attention, and absorbed MLA, with equal outputs.

/** The epsilon of the latent norms in Transformers, and the `rms_norm_eps` that every consumer agrees on. */
export const EPS = 1e-6;

/**
 * Factor of everything that passes a latent norm: so small that epsilon dominates the mean square, and the norm is the
 * constant 1/√eps. The relative error is s² ms(z) / (2 eps) ≤ 5e-8 for latents of rms up to 20. A power of two costs
 * no mantissa bit; squares stay normal numbers in f32.
 */
export const LATENT_SCALE: number = 2 ** -26;

/** How weights are stored. */
export type OutputDType = "f32" | "bf16";

/** Width of the part of a head without RoPE. It carries zeros; stock runtimes demand that it exists. */
const nopeDim = (c: GroupedAttention): number => c.headDim;

/**
 * Rows of one head in the order of interleaved pairs, from the half-split order of LLaMA.
 *
 * @param headDim - The width of the head.
 * @param start - Its first row.
 */
export function interleavedRows(headDim: number, start: number): number[] {
  const half = headDim / 2;
  return range(0, headDim).map((i) => start + (i % 2) * half + Math.floor(i / 2));
}

/** The constant that the latent norm is divided by, as two factors: the norm's weight and the entries of an up-projection. */
export interface NormCompensation {
  /** The weight of the latent norm. */
  readonly gamma: number;
  /** What the up-projection is multiplied by. */
  readonly up: number;
}

/**
 * Splits √eps / s into two factors that lose as little as possible when stored. In f32 one of them is a power of two.
 * In bf16 a single factor would be off by up to 2^-9; the best product of two bf16 numbers is nearer (7e-5 here).
 *
 * @param dtype - How weights are stored.
 */
export function normCompensation(dtype: OutputDType): NormCompensation {
  const target = Math.sqrt(EPS) / LATENT_SCALE;
  const exponent = Math.floor(Math.log2(target));
  if (dtype === "f32") return { gamma: 2 ** exponent, up: target / 2 ** exponent };
  let best = { gamma: 2 ** exponent, up: fromBf16Bits(toBf16Bits(target / 2 ** exponent)) };
  for (const mantissa of range(128, 256)) {
    const gamma = (mantissa / 128) * 2 ** exponent;
    const up = fromBf16Bits(toBf16Bits(target / gamma));
    if (Math.abs(gamma * up - target) < Math.abs(best.gamma * best.up - target))
      best = { gamma, up };
  }
  return best;
}

/**
 * The attention tensors of a merged layer, by their names below `self_attn.`, for DeepSeek-V3.
 *
 * @param w - The source layer: LLaMA row order, half-split pairs.
 * @param c - Its attention.
 * @param residualScale - The factor of the residual stream: see {@link residualScale}.
 * @param dtype - How weights will be stored.
 */
export function mergedTensors(
  w: GroupedWeights<HostTensor>,
  c: GroupedAttention,
  residualScale: number,
  dtype: OutputDType,
): Record<string, HostTensor> {
  const biased = [w.q, w.k, w.v, w.o].some(({ bias }) => bias !== undefined);
  const merged = c.kvHeads * c.headDim;
  const norm = normCompensation(dtype);
  const out: Record<string, HostTensor> = {
    ...queryTensors(w.q, c, biased, norm),
    "kv_a_layernorm.weight": { shape: [merged], data: new Float64Array(merged).fill(norm.gamma) },
    "kv_b_proj.weight": valueUp(c, norm.up),
    "o_proj.weight": scaled(w.o.weight, residualScale),
  };
  const keyRows = range(0, c.kvHeads).flatMap((group) =>
    interleavedRows(c.headDim, group * c.headDim),
  );
  const latentAndKey = (values: HostTensor, keys: HostTensor): HostTensor => {
    const both = zeros(2 * merged, ...values.shape.slice(1));
    copyRows(both, 0, values, range(0, merged), LATENT_SCALE);
    copyRows(both, merged, keys, keyRows);
    return both;
  };
  out["kv_a_proj_with_mqa.weight"] = latentAndKey(w.v.weight, w.k.weight);
  if (biased) {
    out["kv_a_proj_with_mqa.bias"] = latentAndKey(
      w.v.bias ?? zeros(merged),
      w.k.bias ?? zeros(merged),
    );
    out["o_proj.bias"] = scaled(w.o.bias ?? zeros(w.o.weight.shape[0]!), residualScale);
  }
  return out;
}

/** For head h: zero rows without RoPE, then its queries in the slot of its kv head. */
function slotRows(c: GroupedAttention, place: (row: number, sourceRow: number) => void): void {
  const width = nopeDim(c) + c.kvHeads * c.headDim;
  for (let head = 0; head < c.heads; head++) {
    const group = Math.floor(head / (c.heads / c.kvHeads));
    const start = head * width + nopeDim(c) + group * c.headDim;
    interleavedRows(c.headDim, head * c.headDim).forEach((sourceRow, i) =>
      place(start + i, sourceRow),
    );
  }
}

/**
 * The query projection. DeepSeek's `q_proj` and `q_b_proj` have no bias: with biases the original projection becomes
 * `q_a_proj`, which has one, its norm is made a constant like that of the latent, and `q_b_proj` moves rows to slots.
 */
function queryTensors(
  q: Linear<HostTensor>,
  c: GroupedAttention,
  biased: boolean,
  norm: NormCompensation,
): Record<string, HostTensor> {
  const rows = c.heads * (nopeDim(c) + c.kvHeads * c.headDim);
  const queries = c.heads * c.headDim;
  if (!biased) {
    const weight = zeros(rows, q.weight.shape[1]!);
    slotRows(c, (row, sourceRow) => copyRows(weight, row, q.weight, [sourceRow]));
    return { "q_proj.weight": weight };
  }
  const up = zeros(rows, queries);
  slotRows(c, (row, sourceRow) => (up.data[row * queries + sourceRow] = norm.up));
  return {
    "q_a_proj.weight": scaled(q.weight, LATENT_SCALE),
    "q_a_proj.bias": scaled(q.bias ?? zeros(queries), LATENT_SCALE),
    "q_a_layernorm.weight": { shape: [queries], data: new Float64Array(queries).fill(norm.gamma) },
    "q_b_proj.weight": up,
  };
}

/** `kv_b_proj`: for head h no keys, and as values the slice of the latent that belongs to its kv head. */
function valueUp(c: GroupedAttention, value: number): HostTensor {
  const merged = c.kvHeads * c.headDim;
  const perHead = nopeDim(c) + c.headDim;
  const up = zeros(c.heads * perHead, merged);
  for (let head = 0; head < c.heads; head++) {
    const group = Math.floor(head / (c.heads / c.kvHeads));
    for (let i = 0; i < c.headDim; i++) {
      up.data[(head * perHead + nopeDim(c) + i) * merged + group * c.headDim + i] = value;
    }
  }
  return up;
}

/**
 * The factor η of the residual stream under which the source's norm epsilon becomes 1e-6 with equal outputs:
 * RMS(x; eps) = RMS(η x; η² eps). Embeddings, `o_proj` and `down_proj` are multiplied by it, and the final norm's
 * output is not affected.
 *
 * @param eps - The `rms_norm_eps` of the source.
 */
export function residualScale(eps: number): number {
  return eps === EPS ? 1 : Math.sqrt(EPS / eps);
}

/**
 * The DeepSeek-V3 configuration of a merged model, all layers dense, for Transformers.
 *
 * The frequency list is stated as `longrope` factors over a base of 1: factor i is the reciprocal of frequency i. Both
 * lists are the same, so the length does not matter. The attention factor makes up for the softmax scale of the wider
 * head, so that the queries stay as they are.
 *
 * @param source - The configuration of the source: token ids and the like are carried over.
 * @param config - The source as data.
 * @param c - Its attention.
 * @param biased - Whether any attention projection has a bias.
 * @param normEps - Epsilon of the layer norms in the result: 1e-6 where the residual stream was rescaled.
 */
export function mergedConfig(
  source: HuggingFaceConfig,
  config: ModelConfig,
  c: GroupedAttention,
  biased: boolean,
  normEps: number = EPS,
): HuggingFaceConfig {
  const merged = c.kvHeads * c.headDim;
  const width = nopeDim(c) + merged;
  const { frequencies, tableScale } = config.ropes[0]!; // the same on all layers
  const factors = range(0, c.kvHeads).flatMap(() => frequencies.map((frequency) => 1 / frequency));
  const rope = {
    rope_type: "longrope",
    factor: 1,
    attention_factor: tableScale * Math.sqrt(c.scale * Math.sqrt(width)),
    short_factor: factors,
    long_factor: factors,
    original_max_position_embeddings: config.contextLength,
  };
  return deepseekConfig(source, config, c, {
    q_lora_rank: biased ? c.heads * c.headDim : null,
    kv_lora_rank: merged,
    qk_nope_head_dim: nopeDim(c),
    qk_rope_head_dim: merged,
    head_dim: merged,
    attention_bias: biased,
    rope_theta: 1,
    rope_scaling: rope,
    rope_parameters: { rope_theta: 1, ...rope },
    rms_norm_eps: normEps,
  });
}

/**
 * A DeepSeek-V3 configuration with dense layers.
 *
 * @param source - The configuration of the source: token ids and the like are carried over.
 * @param config - The source as data.
 * @param c - Its attention.
 * @param attention - Ranks, widths, rotary embedding and epsilon of the result.
 */
export function deepseekConfig(
  source: HuggingFaceConfig,
  config: ModelConfig,
  c: GroupedAttention,
  attention: HuggingFaceConfig,
): HuggingFaceConfig {
  return {
    architectures: ["DeepseekV3ForCausalLM"],
    model_type: "deepseek_v3",
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: c.heads,
    num_key_value_heads: c.heads,
    v_head_dim: c.headDim,
    ...attention,
    rope_interleave: true,
    max_position_embeddings: config.contextLength,
    hidden_act: "silu",
    tie_word_embeddings: false,
    // All layers are dense; these fields of the expert layers must still be numbers.
    first_k_dense_replace: config.layers,
    moe_intermediate_size: config.intermediateSize,
    n_routed_experts: 2,
    n_shared_experts: 1,
    num_experts_per_tok: 1,
    n_group: 1,
    topk_group: 1,
    topk_method: "noaux_tc",
    scoring_func: "sigmoid",
    norm_topk_prob: true,
    routed_scaling_factor: 1,
    ...carriedOver(source),
  };
}

/** Fields that mean the same in every family. */
function carriedOver(source: HuggingFaceConfig): HuggingFaceConfig {
  const names = ["bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "use_cache"];
  return Object.fromEntries(
    names.filter((name) => name in source).map((name) => [name, source[name]]),
  );
}
