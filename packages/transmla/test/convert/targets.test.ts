import { cpuBackend } from "@transmla/backend-cpu";
import { UnsupportedError } from "@transmla/core";
import { afterEach, describe, expect, test } from "vitest";

import { planConversion, type ConversionMethod } from "../../src/convert/conversion.ts";
import { targetSizes, type Target } from "../../src/convert/targets.ts";
import type { HuggingFaceConfig } from "../../src/model/config/model-config.ts";
import { published } from "../spec/inputs/published.ts";

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

const llama = { ...published["Llama-3-8B"], head_dim: 128 };
const attention = { kind: "grouped", heads: 32, kvHeads: 8, headDim: 128, scale: 0.1 } as const;
const latent = (latentRank: number, ropeDim: number): ConversionMethod => ({
  method: "latent",
  latentRank,
  ropeDim,
  calibration: [[1, 2, 3]],
});

function plan(
  json: HuggingFaceConfig,
  target: Target,
  method: ConversionMethod,
  names: readonly string[] = [],
): HuggingFaceConfig {
  const notRead = (): never => {
    throw new Error("weights are not read");
  };
  const weights = {
    names,
    has: (name: string) => names.includes(name),
    read: notRead,
    pieces: notRead,
  };
  return planConversion(json, weights, { ...method, target, backend }).config;
}

describe("what a target holds", () => {
  test.each<[Target, ConversionMethod]>([
    ["vllm", latent(512, 64)],
    ["vllm", latent(256, 64)],
    ["llama.cpp", latent(96, 48)],
    ["transformers", latent(96, 48)],
    ["transformers", { method: "merged" }],
  ])("%s takes %o", (target, method) => {
    const config = plan(llama, target, method);
    expect(config["model_type"]).toBe("deepseek_v3");
    expect(config["rms_norm_eps"]).toBe(1e-6);
  });
});

describe("what a target refuses, with the reason and an alternative", () => {
  const llama3 = {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  };
  test.each<[Target, string, HuggingFaceConfig, ConversionMethod, string]>([
    [
      "vllm",
      "other sizes",
      llama,
      latent(96, 48),
      "vllm has attention kernels for a latent and a rotated key of 512 + 64 or 256 + 64, not of 96 + 48; use --cache 576 or 320, or --target transformers",
    ],
    ...(["vllm", "llama.cpp"] as const).flatMap(
      (target): [Target, string, HuggingFaceConfig, ConversionMethod, string][] => [
        [
          target,
          "a scaled RoPE",
          { ...llama, rope_scaling: llama3 },
          latent(512, 64),
          `${target} does not honour rope_type "llama3" in DeepSeek-V3; use --target transformers, or --method latent on a model with default RoPE`,
        ],
        [
          target,
          "repeated frequencies",
          llama,
          { method: "merged" },
          `${target} does not honour rope_type "longrope" in DeepSeek-V3; use --target transformers, or --method latent on a model with default RoPE`,
        ],
      ],
    ),
    [
      "transformers",
      "factored attention",
      llama,
      { method: "factored" },
      "transformers reads DeepSeek-V3, which this method does not write; use --method merged or latent",
    ],
  ])("%s, %s", (target, _, json, method, message) => {
    expect(() => plan(json, target, method)).toThrow(new UnsupportedError(`convert: ${message}`));
  });

  test("a scaled RoPE is no obstacle for Transformers", () => {
    const json = { ...llama, rope_scaling: llama3 };
    const config = plan(json, "transformers", latent(512, 64));
    expect(config["rope_parameters"]).toMatchObject({ rope_type: "llama3", factor: 8 });
  });

  test("biases", () => {
    const json = { ...llama, num_key_value_heads: 1, attention_bias: true };
    const names = ["q", "k", "v", "o"].map((name) => `model.layers.0.self_attn.${name}_proj.bias`);
    expect(() => plan(json, "llama.cpp", { method: "merged" }, names)).toThrow(UnsupportedError);
  });
});

describe("sizes that a target leaves no choice of", () => {
  test("vllm: of the largest cache that is smaller than the source's, or of the one asked for", () => {
    expect(targetSizes("vllm", attention, undefined)).toEqual({ ropeDim: 64, latentRank: 512 });
    expect(targetSizes("vllm", attention, 320)).toEqual({ ropeDim: 64, latentRank: 256 });
    const small = { ...attention, kvHeads: 3, headDim: 64 };
    expect(targetSizes("vllm", small, undefined)).toEqual({ ropeDim: 64, latentRank: 256 });
  });

  test("others take all sizes", () => {
    expect(targetSizes("transformers", attention, 96)).toBeUndefined();
    expect(targetSizes("llama.cpp", attention, undefined)).toBeUndefined();
  });

  test("a cache of another size, or a model that is too small, is refused", () => {
    expect(() => targetSizes("vllm", attention, 144)).toThrow(
      "convert: vllm holds caches of 576 (512 + 64) and 320 (256 + 64) numbers per token and layer, of which this model has room for 576 and 320; use --target transformers",
    );
    expect(() => targetSizes("vllm", { ...attention, headDim: 32 }, undefined)).toThrow(
      "which heads of 32 and a cache of 512 have no room for; use --target transformers",
    );
  });
});
