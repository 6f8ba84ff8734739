import { fc, test as prop } from "@fast-check/vitest";
import { describe, expect, test } from "vitest";

import { familyNames, parseConfig } from "../../src/model/config/families.ts";
import { unknownFields } from "../../src/model/config/known-fields.ts";

const llama = {
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 172,
  num_hidden_layers: 3,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  vocab_size: 512,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
};

const known = familyNames.join(", ");

test("a llama configuration", () => {
  const frequencies = [1, 0.1, 0.01, 0.001].map((f) => expect.closeTo(f, 12) as number);
  const rope = { frequencies, interleaved: false, tableScale: 1 };
  expect(parseConfig(llama)).toEqual({
    family: "llama",
    layers: 3,
    hiddenSize: 64,
    intermediateSize: 172,
    vocabSize: 512,
    contextLength: 256,
    normEps: 1e-5,
    normOffset: 0,
    norms: { attention: "input_layernorm", feedForward: "post_attention_layernorm" },
    activation: "silu",
    embeddingScale: 1,
    logitCap: undefined,
    scoreCap: undefined,
    tiedEmbeddings: false,
    attention: { kind: "grouped", heads: 8, kvHeads: 4, headDim: 8, scale: 8 ** -0.5 },
    ropes: [rope, rope, rope],
    windows: [undefined, undefined, undefined],
    experts: [undefined, undefined, undefined],
  });
});

test("absent fields have the defaults of Transformers", () => {
  const { num_key_value_heads: _, rms_norm_eps: __, ...rest } = llama;
  expect(parseConfig(rest)).toMatchObject({ normEps: 1e-6, attention: { kvHeads: 8 } });
});

describe("windows", () => {
  test("mistral has one on every layer", () => {
    expect(parseConfig({ ...llama, model_type: "mistral", sliding_window: 32 }).windows).toEqual([
      32, 32, 32,
    ]);
    expect(parseConfig({ ...llama, model_type: "mistral", sliding_window: null }).windows).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });

  test("qwen2 has one above max_window_layers, where it is used", () => {
    const qwen = { ...llama, model_type: "qwen2", sliding_window: 32, max_window_layers: 1 };
    expect(parseConfig({ ...qwen, use_sliding_window: true }).windows).toEqual([undefined, 32, 32]);
    expect(parseConfig({ ...qwen, use_sliding_window: false }).windows).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    const types = ["sliding_attention", "full_attention", "full_attention"];
    expect(parseConfig({ ...qwen, use_sliding_window: true, layer_types: types }).windows).toEqual([
      32,
      undefined,
      undefined,
    ]);
  });
});

describe("rotary embeddings", () => {
  const scaled = (scaling: object): readonly number[] =>
    parseConfig({ ...llama, rope_scaling: scaling }).ropes[0]!.frequencies;

  test("both forms of the fields give the same", () => {
    const scaling = { rope_type: "linear", factor: 4 };
    const current = { ...llama, rope_parameters: { ...scaling, rope_theta: 500 } };
    const classic = { ...llama, rope_scaling: { type: "linear", factor: 4 }, rope_theta: 500 };
    expect(parseConfig(current)).toEqual(parseConfig(classic));
  });

  test("linear divides every frequency", () => {
    expect(scaled({ type: "linear", factor: 4 })[0]).toBe(0.25);
  });

  test("llama3 keeps fast frequencies and slows the others down", () => {
    const fields = {
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 128,
    };
    const [fast, ramp, slow] = scaled({ rope_type: "llama3", ...fields });
    expect(fast).toBe(1);
    const kept = ((128 * 0.1) / (2 * Math.PI) - 1) / 3;
    expect(ramp).toBeCloseTo(0.1 * (kept + (1 - kept) / 8), 12);
    expect(slow).toBeCloseTo(0.01 / 8, 12);
  });

  test("longrope divides by its list and scales the tables", () => {
    const factors = [1, 2, 3, 4];
    const { ropes } = parseConfig({
      ...llama,
      rope_scaling: {
        type: "longrope",
        short_factor: factors,
        long_factor: factors,
        factor: 4,
        original_max_position_embeddings: 64,
      },
    });
    expect(ropes[0]!.frequencies[3]).toBeCloseTo(0.001 / 4, 12);
    expect(ropes[0]!.tableScale).toBeCloseTo(Math.sqrt(1 + Math.log(4) / Math.log(64)), 12);
  });
});

test.each([
  [{ model_type: "mamba" }, `config.json: model_type "mamba" is not supported; known: ${known}`],
  [
    { model_type: "__proto__" },
    `config.json: model_type "__proto__" is not supported; known: ${known}`,
  ],
  [
    { hidden_size: "64" },
    'config.json: hidden_size must be an integer from 1 to 2147483648, found "64"',
  ],
  [
    { hidden_size: null },
    "config.json: hidden_size must be an integer from 1 to 2147483648, it is missing",
  ],
  [
    { num_hidden_layers: 1.5 },
    "config.json: num_hidden_layers must be an integer from 1 to 4096, found 1.5",
  ],
  [
    { num_key_value_heads: 3 },
    "config.json: num_key_value_heads = 3 must divide num_attention_heads = 8",
  ],
  [
    { num_attention_heads: 7 },
    "config.json: num_attention_heads = 7 does not divide hidden_size = 64, and there is no head_dim",
  ],
  [{ head_dim: 7 }, "config.json: head_dim = 7 must be even"],
  [
    { hidden_act: "gelu" },
    'config.json: hidden_act = "gelu" is not supported; known: silu, swish, gelu_pytorch_tanh',
  ],
  [
    { final_logit_softcapping: 30 },
    "config.json: final_logit_softcapping = 30 is not supported for llama",
  ],
  [{ quantization_config: {} }, "config.json: quantization_config = {} is not supported for llama"],
  [
    { rope_scaling: { type: "ntk" } },
    'config.json: rope_scaling.type = "ntk" is not supported; known: default, linear, dynamic, llama3, yarn, longrope, su',
  ],
  [
    { rope_scaling: { type: "linear" } },
    "config.json: rope_scaling.factor must be a number above 0, it is missing",
  ],
  [{ rope_scaling: 3 }, "config.json: rope_scaling must be a JSON object"],
  [
    { rope_scaling: { type: "default", mrope_section: [16, 24, 24] } },
    "config.json: rope_scaling.mrope_section = [16,24,24] is not known, and may change the logits",
  ],
  [
    { partial_rotary_factor: 0.4 },
    "config.json: partial_rotary_factor = 0.4 rotates 3 of 8 components; it must be an even number of them",
  ],
  [{ transmla: { version: 2 } }, "config.json: transmla.version = 2 is not supported; known: 1"],
  [
    { transmla: { version: 1, source_model_type: "llama", method: "folded" } },
    'config.json: transmla.method = "folded" is not supported; known: factored, merged',
  ],
])("refuses %j", (change, message) => {
  expect(() => parseConfig({ ...llama, ...change })).toThrow(message);
});

test("longrope with two lists changes with the length", () => {
  const scaling = { type: "longrope", short_factor: [1, 1, 1, 1], long_factor: [1, 1, 1, 2] };
  const fields = { ...llama, original_max_position_embeddings: 64, rope_scaling: scaling };
  expect(parseConfig(fields).ropes[0]!.long?.above).toBe(64);
});

describe("families", () => {
  test("gemma2 scales embeddings, caps scores and logits, and looks back in every other layer", () => {
    const gemma = {
      ...llama,
      model_type: "gemma2",
      head_dim: 8,
      sliding_window: 32,
      attn_logit_softcapping: 50,
      final_logit_softcapping: 30,
      query_pre_attn_scalar: 16,
    };
    expect(parseConfig(gemma)).toMatchObject({
      embeddingScale: 8,
      normOffset: 1,
      scoreCap: 50,
      logitCap: 30,
      activation: "gelu",
      tiedEmbeddings: true,
      attention: { scale: 0.25 },
      windows: [32, undefined, 32],
    });
  });

  test("smollm3 has layers without positions", () => {
    const { ropes } = parseConfig({ ...llama, model_type: "smollm3", no_rope_layers: [1, 0, 1] });
    expect(ropes.map((rope) => rope === undefined)).toEqual([false, true, false]);
  });

  test("deepseek_v3 has experts behind its first layers", () => {
    const { experts } = parseConfig({
      ...llama,
      model_type: "deepseek_v3",
      kv_lora_rank: 8,
      qk_nope_head_dim: 4,
      qk_rope_head_dim: 4,
      v_head_dim: 4,
      first_k_dense_replace: 1,
      n_routed_experts: 16,
      n_shared_experts: 2,
      num_experts_per_tok: 4,
      moe_intermediate_size: 24,
    });
    expect(experts[0]).toBeUndefined();
    expect(experts[1]).toMatchObject({
      count: 16,
      perToken: 4,
      sharedWidth: 48,
      scoring: "sigmoid",
    });
  });

  test("yarn scales the softmax of DeepSeek", () => {
    const scaling = {
      type: "yarn",
      factor: 40,
      mscale: 1,
      mscale_all_dim: 1,
      original_max_position_embeddings: 64,
    };
    const { attention, ropes } = parseConfig({
      ...llama,
      model_type: "deepseek_v3",
      kv_lora_rank: 8,
      qk_nope_head_dim: 4,
      qk_rope_head_dim: 4,
      v_head_dim: 4,
      first_k_dense_replace: 3,
      rope_scaling: scaling,
    });
    expect(attention.scale).toBeCloseTo(8 ** -0.5 * (0.1 * Math.log(40) + 1) ** 2, 12);
    expect(ropes[0]!.tableScale).toBe(1);
  });
});

test("names fields that it does not know", () => {
  expect(unknownFields({ ...llama, attention_temperature: 2, use_cache: true })).toEqual([
    "attention_temperature",
  ]);
});

prop.prop([
  fc.dictionary(
    fc.constantFrom(...Object.keys(llama), "rope_scaling", "head_dim", "transmla"),
    fc.jsonValue(),
  ),
])("any values give a configuration or an error of this library", (change) => {
  try {
    expect(parseConfig({ ...llama, ...change }).layers).toBeGreaterThan(0);
  } catch (error) {
    expect((error as Error).name).toBe("FormatError");
  }
});
