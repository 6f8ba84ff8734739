import { fromBf16Bits, toBf16Bits } from "@transmla/core";

import type {
  GroupedAttention,
  HuggingFaceConfig,
  ModelConfig,
  RopeConfig,
} from "../model/config/model-config.ts";
import type { GroupedWeights, Linear } from "../model/weights.ts";
import { deepseekConfig } from "./deepseek-config.ts";
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

/** What a merged model makes of each head of the source, of width d. */
export interface MergedLayout {
  /** How many components are rotated, in the layers that rotate any. */
  readonly rotated: number;
  /** How many are not, in the layer that leaves most as they are. Their keys are in the latent, beside the values. */
  readonly unrotated: number;
}

/**
 * The layout of a model whose layers rotate heads as a whole, in part, or not at all.
 *
 * @param config - The model.
 * @param c - Its attention.
 */
export function mergedLayout({ ropes }: ModelConfig, c: GroupedAttention): MergedLayout {
  const rotated = ropes.map((rope) => rotatedWidth(rope));
  return { rotated: Math.max(...rotated), unrotated: c.headDim - Math.min(...rotated) };
}

/** How many components of a head a rotary embedding rotates. */
function rotatedWidth(rope: RopeConfig | undefined): number {
  return 2 * (rope?.frequencies.length ?? 0);
}

/** Width of the part of a head without RoPE: enough for what is not rotated. Stock runtimes demand that it exists. */
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

/** How the tensors of a merged layer are made. */
export interface MergedOptions {
  /** The layout of the model; the whole head is rotated when absent. */
  readonly layout?: MergedLayout | undefined;
  /** The rotary embedding of the layer: it may have none where others have one. As in the layout when absent. */
  readonly rope?: RopeConfig | "none" | undefined;
  /** Factor of the queries of what is rotated: 1 when absent, where the rotary embedding makes up for the softmax scale. */
  readonly rotatedScale?: number | undefined;
}

/**
 * The attention tensors of a merged layer, by their names below `self_attn.`, for DeepSeek-V3.
 *
 * @param w - The source layer: LLaMA row order, half-split pairs.
 * @param c - Its attention.
 * @param residualScale - The factor of the residual stream: see {@link residualScale}.
 * @param dtype - How weights will be stored.
 * @param options - What is rotated.
 */
export function mergedTensors(
  w: GroupedWeights<HostTensor>,
  c: GroupedAttention,
  residualScale: number,
  dtype: OutputDType,
  options: MergedOptions = {},
): Record<string, HostTensor> {
  const biased = [w.q, w.k, w.v, w.o].some(({ bias }) => bias !== undefined);
  const slots = layerSlots(c, options);
  const norm = normCompensation(dtype);
  const { latent, ropeDim } = slots;
  const out: Record<string, HostTensor> = {
    ...queryTensors(w.q, c, biased, norm, slots),
    "kv_a_layernorm.weight": { shape: [latent], data: new Float64Array(latent).fill(norm.gamma) },
    "kv_b_proj.weight": upProjection(c, norm.up, slots),
    "o_proj.weight": scaled(w.o.weight, residualScale),
  };
  const latentAndKey = (values: HostTensor, keys: HostTensor): HostTensor => {
    const both = zeros(latent + ropeDim, ...values.shape.slice(1));
    copyRows(both, 0, values, range(0, c.kvHeads * c.headDim), LATENT_SCALE);
    for (const { row, source, scale } of slots.keys) copyRows(both, row, keys, [source], scale);
    return both;
  };
  out["kv_a_proj_with_mqa.weight"] = latentAndKey(w.v.weight, w.k.weight);
  if (biased) {
    const none = zeros(c.kvHeads * c.headDim);
    out["kv_a_proj_with_mqa.bias"] = latentAndKey(w.v.bias ?? none, w.k.bias ?? none);
    out["o_proj.bias"] = scaled(w.o.bias ?? zeros(w.o.weight.shape[0]!), residualScale);
  }
  return out;
}

/** Where a row of the source goes, and its factor. */
interface Slot {
  readonly row: number;
  readonly source: number;
  readonly scale: number;
}

/** Where the rows of a layer go. */
interface LayerSlots {
  /** Width of the latent: all values, then all keys that some layer does not rotate. */
  readonly latent: number;
  /** Width of the shared rope key. */
  readonly ropeDim: number;
  /** Rows of queries. */
  readonly queries: readonly Slot[];
  /** Rows of keys below the latent's values. */
  readonly keys: readonly Slot[];
  /** The latent coordinate of each component of a head of keys that is not rotated. */
  readonly unrotated: (group: number) => readonly number[];
}

function layerSlots(c: GroupedAttention, options: MergedOptions): LayerSlots {
  const { heads, kvHeads, headDim: d } = c;
  const { layout = { rotated: d, unrotated: 0 }, rope, rotatedScale = 1 } = options;
  const turned = rope === "none" ? 0 : layout.rotated; // components that this layer rotates
  const ropeDim = kvHeads * layout.rotated;
  const latent = kvHeads * (d + layout.unrotated);
  const width = nopeDim(c) + ropeDim;
  // No rotary embedding makes up for the softmax scale of what is not rotated.
  const plainScale = c.scale * Math.sqrt(width);
  const queries = range(0, heads).flatMap((head): Slot[] => {
    const group = Math.floor(head / (heads / kvHeads));
    const [at, from] = [head * width, head * d];
    const start = at + nopeDim(c) + group * layout.rotated;
    return [
      ...range(turned, d).map((i) => ({
        row: at + i - turned,
        source: from + i,
        scale: plainScale,
      })),
      ...interleavedRows(turned, from).map((source, i) => {
        return { row: start + i, source, scale: rotatedScale };
      }),
    ];
  });
  const unrotated = (group: number): number[] => {
    const start = kvHeads * d + group * layout.unrotated;
    return range(start, start + d - turned);
  };
  const keys = range(0, kvHeads).flatMap((group): Slot[] => [
    ...unrotated(group).map((row, i) => {
      return { row, source: group * d + turned + i, scale: LATENT_SCALE };
    }),
    ...interleavedRows(turned, group * d).map((source, i) => {
      return { row: latent + group * layout.rotated + i, source, scale: 1 };
    }),
  ]);
  return { latent, ropeDim, queries, keys, unrotated };
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
  { queries: slots, ropeDim }: LayerSlots,
): Record<string, HostTensor> {
  const rows = c.heads * (nopeDim(c) + ropeDim);
  const queries = c.heads * c.headDim;
  if (!biased) {
    const weight = zeros(rows, q.weight.shape[1]!);
    for (const { row, source, scale } of slots) copyRows(weight, row, q.weight, [source], scale);
    return { "q_proj.weight": weight };
  }
  const up = zeros(rows, queries);
  for (const { row, source, scale } of slots) up.data[row * queries + source] = norm.up * scale;
  return {
    "q_a_proj.weight": scaled(q.weight, LATENT_SCALE),
    "q_a_proj.bias": scaled(q.bias ?? zeros(queries), LATENT_SCALE),
    "q_a_layernorm.weight": { shape: [queries], data: new Float64Array(queries).fill(norm.gamma) },
    "q_b_proj.weight": up,
  };
}

/** `kv_b_proj`: for head h the keys of its kv head that are not rotated, and its slice of the values. */
function upProjection(
  c: GroupedAttention,
  value: number,
  { latent, unrotated }: LayerSlots,
): HostTensor {
  const perHead = nopeDim(c) + c.headDim;
  const up = zeros(c.heads * perHead, latent);
  for (let head = 0; head < c.heads; head++) {
    const group = Math.floor(head / (c.heads / c.kvHeads));
    const first = head * perHead;
    unrotated(group).forEach((at, i) => (up.data[(first + i) * latent + at] = value));
    for (let i = 0; i < c.headDim; i++) {
      up.data[(first + nopeDim(c) + i) * latent + group * c.headDim + i] = value;
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

/** How a merged model states its rotary embedding, and the factor of the queries that belongs to it. */
export interface MergedRope {
  /** The fields of `rope_parameters`. */
  readonly stated: HuggingFaceConfig;
  /** Makes up for the softmax scale of the wider head, where the rotary embedding does not. */
  readonly rotatedScale: number;
}

/**
 * A frequency list that repeats, stated as `longrope` factors over a base of 1: factor i is the reciprocal of frequency i.
 * A model without another list for long sequences has the same list twice. The attention factor makes up for the softmax
 * scale of the wider head, so that the queries of what is rotated stay as they are.
 *
 * @param config - The source.
 * @param c - Its attention.
 */
export function repeatedRope(config: ModelConfig, c: GroupedAttention): MergedRope {
  const { frequencies, tableScale, long } = config.ropes.find((rope) => rope !== undefined)!;
  const factors = (list: readonly number[]): number[] =>
    range(0, c.kvHeads).flatMap(() => list.map((frequency) => 1 / frequency));
  const stated = {
    rope_theta: 1,
    rope_type: "longrope",
    factor: 1,
    attention_factor: tableScale * Math.sqrt(scoreFactor(config, c)),
    short_factor: factors(frequencies),
    long_factor: factors(long?.frequencies ?? frequencies),
    original_max_position_embeddings: long?.above ?? config.contextLength,
  };
  return { stated, rotatedScale: 1 };
}

/**
 * The rotary embedding of one kv head as the source has it, for runtimes that know no frequency lists.
 *
 * @param theta - Its base.
 * @param config - The source.
 * @param c - Its attention.
 */
export function plainRope(theta: number, config: ModelConfig, c: GroupedAttention): MergedRope {
  return {
    stated: { rope_theta: theta, rope_type: "default" },
    rotatedScale: scoreFactor(config, c),
  };
}

/** The softmax scale of the source over that of the wider head. */
function scoreFactor(config: ModelConfig, c: GroupedAttention): number {
  return c.scale * Math.sqrt(nopeDim(c) + c.kvHeads * mergedLayout(config, c).rotated);
}

/**
 * The DeepSeek-V3 configuration of a merged model, all layers dense.
 *
 * @param source - The configuration of the source: token ids and the like are carried over.
 * @param config - The source as data.
 * @param c - Its attention.
 * @param biased - Whether any attention projection has a bias.
 * @param normEps - Epsilon of the layer norms in the result: 1e-6 where the residual stream was rescaled.
 * @param rope - The rotary embedding.
 */
export function mergedConfig(
  source: HuggingFaceConfig,
  config: ModelConfig,
  c: GroupedAttention,
  biased: boolean,
  normEps: number = EPS,
  { stated }: MergedRope = repeatedRope(config, c),
): HuggingFaceConfig {
  const { rotated, unrotated } = mergedLayout(config, c);
  const { rope_theta: theta, ...scaling } = stated;
  return deepseekConfig(source, config, c, {
    q_lora_rank: biased ? c.heads * c.headDim : null,
    kv_lora_rank: c.kvHeads * (c.headDim + unrotated),
    qk_nope_head_dim: nopeDim(c),
    qk_rope_head_dim: c.kvHeads * rotated,
    head_dim: c.kvHeads * rotated,
    attention_bias: biased,
    rope_theta: theta,
    rope_scaling: scaling["rope_type"] === "default" ? null : scaling,
    rope_parameters: stated,
    rms_norm_eps: normEps,
  });
}
