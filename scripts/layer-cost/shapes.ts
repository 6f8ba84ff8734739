import type { HuggingFaceConfig } from "transmla";

/** A model of two layers, and how it is converted. */
export interface Shape {
  readonly config: HuggingFaceConfig;
  readonly ropeDim: number;
  readonly latentRank: number;
  /** How many windows it is calibrated on, and their length. */
  readonly calibration: readonly [windows: number, tokens: number];
}

/** Models by name, with the caches that stock runtimes have kernels for where there are any. */
export const shapes: Readonly<Record<string, Shape>> = {
  "SmolLM2-135M": {
    config: config("llama", {
      hidden_size: 576,
      intermediate_size: 1536,
      num_attention_heads: 9,
      num_key_value_heads: 3,
      vocab_size: 49_152,
    }),
    ropeDim: 48,
    latentRank: 144,
    calibration: [16, 1024],
  },
  "Qwen2.5-7B": {
    config: config("qwen2", {
      hidden_size: 3584,
      intermediate_size: 18_944,
      num_attention_heads: 28,
      num_key_value_heads: 4,
      vocab_size: 152_064,
    }),
    ropeDim: 64,
    latentRank: 512,
    calibration: [4, 1024],
  },
  "Llama-3-8B": {
    config: config("llama", {
      hidden_size: 4096,
      intermediate_size: 14_336,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      vocab_size: 128_256,
    }),
    ropeDim: 64,
    latentRank: 512,
    calibration: [4, 1024],
  },
};

function config(type: string, sizes: HuggingFaceConfig): HuggingFaceConfig {
  return {
    model_type: type,
    ...sizes,
    num_hidden_layers: 2,
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-6,
    rope_theta: 500_000,
    hidden_act: "silu",
    tie_word_embeddings: false,
  };
}
