// The rules of Hugging Face Transformers (modeling_rope_utils.py) from rope parameters to frequencies.
import type { RopeConfig } from "../../../src/model/config/model-config.ts";

/** `rope_parameters` of a config.json. */
export interface RopeParameters {
  readonly rope_type: "default" | "linear" | "llama3" | "yarn" | "longrope";
  readonly rope_theta: number;
  readonly factor?: number;
  readonly attention_factor?: number;
  readonly original_max_position_embeddings?: number;
  readonly low_freq_factor?: number;
  readonly high_freq_factor?: number;
  readonly short_factor?: readonly number[];
  readonly beta_fast?: number;
  readonly beta_slow?: number;
  readonly mscale?: number;
  readonly mscale_all_dim?: number;
}

/** Radians per position for each of the `dim / 2` pairs, and the factor of cosines and sines. */
export function rotationOf(p: RopeParameters, dim: number): Omit<RopeConfig, "interleaved"> {
  const base = Array.from({ length: dim / 2 }, (_, i) => 1 / p.rope_theta ** ((2 * i) / dim));
  switch (p.rope_type) {
    case "default":
      return { frequencies: base, tableScale: 1 };
    case "linear":
      return { frequencies: base.map((f) => f / p.factor!), tableScale: 1 };
    case "llama3":
      return { frequencies: base.map((f) => llama3(f, p)), tableScale: 1 };
    case "longrope":
      // The long list serves beyond the original context; the sequences here stay within it.
      return {
        frequencies: base.map((f, i) => f / p.short_factor![i]!),
        tableScale: p.attention_factor ?? 1,
      };
    case "yarn":
      return {
        frequencies: yarn(base, p, dim),
        tableScale: p.attention_factor ?? yarnTableScale(p),
      };
  }
}

/** Long wavelengths are divided by `factor`, short ones kept, the rest interpolated. */
function llama3(frequency: number, p: RopeParameters): number {
  const [low, high, context] = [
    p.low_freq_factor!,
    p.high_freq_factor!,
    p.original_max_position_embeddings!,
  ];
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength < context / high) return frequency;
  if (wavelength > context / low) return frequency / p.factor!;
  const smooth = (context / wavelength - low) / (high - low);
  return ((1 - smooth) * frequency) / p.factor! + smooth * frequency;
}

/** The magnitude correction of YaRN. */
export function yarnMscale(factor: number, mscale: number): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

function yarnTableScale({ factor, mscale, mscale_all_dim }: RopeParameters): number {
  if (!mscale || !mscale_all_dim) return yarnMscale(factor!, 1);
  return yarnMscale(factor!, mscale) / yarnMscale(factor!, mscale_all_dim);
}

/** A linear ramp over the pair index, between the pairs that make `beta_fast` and `beta_slow` turns in the context. */
function yarn(base: readonly number[], p: RopeParameters, dim: number): number[] {
  const pairWithTurns = (turns: number): number => {
    const context = p.original_max_position_embeddings!;
    return (dim * Math.log(context / (turns * 2 * Math.PI))) / (2 * Math.log(p.rope_theta));
  };
  const low = Math.max(Math.floor(pairWithTurns(p.beta_fast ?? 32)), 0);
  const high = Math.min(Math.ceil(pairWithTurns(p.beta_slow ?? 1)), dim - 1);
  return base.map((frequency, i) => {
    const ramp = Math.min(Math.max((i - low) / (high === low ? 0.001 : high - low), 0), 1);
    return (frequency / p.factor!) * ramp + frequency * (1 - ramp);
  });
}
