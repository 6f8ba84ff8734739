// Multi-head latent attention as the DeepSeek-V3 class of Hugging Face Transformers computes it, from the tensors and
// the config.json of a checkpoint, in plain f64 loops.
import type { HostTensor } from "../../../src/convert/host-tensor.ts";
import type { HuggingFaceConfig, RopeConfig } from "../../../src/model/config/model-config.ts";
import type { Linear } from "../../../src/model/weights.ts";
import {
  average,
  causalScores,
  columns,
  joinHeads,
  linear,
  rmsNorm,
  rotate,
  splitHeads,
  type Rows,
} from "./attention.ts";
import { rotationOf, yarnMscale, type RopeParameters } from "./rope.ts";

/** Tensors by name. */
export type Tensors = ReadonlyMap<string, HostTensor>;

/** The linear layer of a name; its bias may be absent. */
export function linearOf(tensors: Tensors, name: string): Linear<HostTensor> {
  const weight = tensors.get(`${name}.weight`);
  if (!weight) throw new Error(`reference: ${name}.weight is missing`);
  return { weight, bias: tensors.get(`${name}.bias`) };
}

/** The fields that attention reads. */
interface DeepseekConfig {
  readonly num_attention_heads: number;
  readonly q_lora_rank: number | null;
  readonly kv_lora_rank: number;
  readonly qk_nope_head_dim: number;
  readonly qk_rope_head_dim: number;
  readonly head_dim: number;
  readonly rope_interleave?: boolean;
  readonly rope_parameters: RopeParameters;
}

/** The epsilon of `q_a_layernorm` and `kv_a_layernorm`, whatever `rms_norm_eps` is. */
const LATENT_EPS = 1e-6;

/** What some properties vary in a latent layer. */
export interface DeepseekOptions {
  /** The position of the first token. */
  readonly start?: number;
  /** `none` leaves out `kv_a_layernorm`, which no checkpoint can ask for. */
  readonly latentNorm?: "live" | "none";
}

/** The factor of the scores: `1/sqrt(nope + rope)`, times mscale² under YaRN with `mscale_all_dim`. */
function deepseekScale(json: HuggingFaceConfig): number {
  const { qk_nope_head_dim, qk_rope_head_dim, rope_parameters } = json as unknown as DeepseekConfig;
  const { rope_type, factor, mscale_all_dim } = rope_parameters;
  const scale = 1 / Math.sqrt(qk_nope_head_dim + qk_rope_head_dim);
  if (rope_type === "default" || !mscale_all_dim) return scale;
  return scale * yarnMscale(factor!, mscale_all_dim) ** 2;
}

/** How the rope parts are turned. */
function deepseekRotation(json: HuggingFaceConfig): RopeConfig {
  const { head_dim, rope_interleave = true, rope_parameters } = json as unknown as DeepseekConfig;
  return { ...rotationOf(rope_parameters, head_dim), interleaved: rope_interleave };
}

/** `x [T, D]` to the queries of every head, `[T, nope + rope]` each. */
function queries(x: Rows, tensors: Tensors, prefix: string, json: DeepseekConfig): Rows[] {
  const heads = json.num_attention_heads;
  if (json.q_lora_rank === null)
    return splitHeads(linear(x, linearOf(tensors, `${prefix}q_proj`)), heads);
  const latent = linear(x, linearOf(tensors, `${prefix}q_a_proj`));
  const normed = rmsNorm(latent, tensors.get(`${prefix}q_a_layernorm.weight`)!.data, LATENT_EPS);
  return splitHeads(linear(normed, linearOf(tensors, `${prefix}q_b_proj`)), heads);
}

/** The attention logits of every head, `[T, <= T]` each, and the values that they average, `[T, v_head_dim]` each. */
export function deepseekScores(
  x: Rows,
  tensors: Tensors,
  json: HuggingFaceConfig,
  { start = 0, latentNorm = "live" }: DeepseekOptions = {},
  prefix = "",
): { readonly scores: Rows[]; readonly values: Rows[] } {
  const config = json as unknown as DeepseekConfig;
  const { num_attention_heads: heads, kv_lora_rank: rank, qk_nope_head_dim: nope } = config;
  const rope = deepseekRotation(json);
  const turned = (x: Rows): Rows => rotate(x, rope, start);

  const down = linear(x, linearOf(tensors, `${prefix}kv_a_proj_with_mqa`)); // [T, rank + rope]
  const gamma = tensors.get(`${prefix}kv_a_layernorm.weight`)!.data;
  const raw = columns(down, 0, rank);
  const latent = latentNorm === "live" ? rmsNorm(raw, gamma, LATENT_EPS) : raw;
  const ropeKey = turned(columns(down, rank, down[0]!.length)); // one for all heads
  const up = splitHeads(linear(latent, linearOf(tensors, `${prefix}kv_b_proj`)), heads); // [T, nope + value]

  const scores = queries(x, tensors, prefix, config).map((q, h) => {
    const query = joinHeads([columns(q, 0, nope), turned(columns(q, nope, q[0]!.length))]);
    const key = joinHeads([columns(up[h]!, 0, nope), ropeKey]);
    return causalScores(query, key, deepseekScale(json));
  });
  return { scores, values: up.map((both) => columns(both, nope, both[0]!.length)) };
}

/** The attention of one layer: `x [T, D]` to `[T, D]`. */
export function deepseekAttention(
  x: Rows,
  tensors: Tensors,
  json: HuggingFaceConfig,
  options: DeepseekOptions = {},
  prefix = "",
): Rows {
  const { scores, values } = deepseekScores(x, tensors, json, options, prefix);
  const heads = scores.map((head, h) => average(head, values[h]!));
  return linear(joinHeads(heads), linearOf(tensors, `${prefix}o_proj`));
}
