// What the fuzz has found, each as the least file that showed it.
import { describe, expect, test } from "vitest";

import { ggufContent } from "../gguf/small-model.ts";
import { ggufBytes, list, texts } from "../gguf/writer.ts";
import { encode } from "./bytes.ts";
import { checkReading, type Files } from "./harness.ts";
import { readConfiguration, readGgufFile, readTexts } from "./readers.ts";

const json = (value: unknown): Uint8Array<ArrayBuffer> => encode(JSON.stringify(value));

async function messageOf(
  files: Files,
  read: Parameters<typeof checkReading>[1],
): Promise<string | undefined> {
  return (await checkReading(files, read))?.message;
}

describe("config.json", () => {
  const llama = {
    model_type: "llama",
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    vocab_size: 80,
    max_position_embeddings: 64,
  };
  const experts = { ...llama, model_type: "deepseek_v3", first_k_dense_replace: 0 };
  const routed = { moe_intermediate_size: 8, n_routed_experts: 8, num_experts_per_tok: 2 };
  const yarn = { rope_type: "yarn", factor: 2 };

  test.each<[problem: string, change: object]>([
    [
      "num_hidden_layers must be an integer from 1 to 4096, found 2147483648",
      { num_hidden_layers: 2 ** 31 },
    ],
    ["head_dim must be an integer from 1 to 65536, found 2147483648", { head_dim: 2 ** 31 }],
    [
      "head_dim must be an integer from 1 to 65536, it is missing, and the other fields make it 536870912",
      { hidden_size: 2 ** 31 },
    ],
    [
      "qk_rope_head_dim must be an integer from 1 to 65536, found 1048576",
      { kv_lora_rank: 8, qk_nope_head_dim: 8, v_head_dim: 8, qk_rope_head_dim: 2 ** 20 },
    ],
    [
      `layer_types = [${'"full_attention",'.repeat(6).slice(0, 99)}... has 4097 texts; the most is 4096`,
      {
        model_type: "qwen2",
        use_sliding_window: true,
        sliding_window: 8,
        layer_types: Array(4097).fill("full_attention"),
      },
    ],
    [
      'rope_scaling = {"rope_type":"linear","factor":1e-320} gives frequencies that are not finite',
      { rope_scaling: { rope_type: "linear", factor: 1e-320 } },
    ],
    [
      'rope_scaling = {"rope_type":"dynamic","factor":2} cannot scale a rotary embedding of one pair',
      { head_dim: 2, rope_scaling: { rope_type: "dynamic", factor: 2 } },
    ],
    [
      "attention_factor must be a number above 0, it is missing, and the other fields make it Infinity",
      {
        rope_scaling: {
          rope_type: "longrope",
          short_factor: [1, 1, 1, 1],
          long_factor: [1, 1, 1, 1],
          original_max_position_embeddings: 1,
        },
      },
    ],
    [
      "mscale_all_dim = 1e+308 gives scores that are not finite",
      {
        ...experts,
        kv_lora_rank: 8,
        qk_nope_head_dim: 8,
        qk_rope_head_dim: 8,
        v_head_dim: 8,
        rope_scaling: { ...yarn, mscale_all_dim: 1e308 },
      },
    ],
    [
      "num_experts_per_tok = 9 is more than the 8 experts to choose from",
      { ...experts, ...routed, n_group: 1, topk_group: 1, num_experts_per_tok: 9 },
    ],
    ["n_group = 3 must divide the number of experts, 8", { ...experts, ...routed, n_group: 3 }],
    [
      "topk_group = 5 is more than the number of groups, 4",
      { ...experts, ...routed, n_group: 4, topk_group: 5 },
    ],
    [
      "n_group = 8 leaves 1 experts in a group; 2 rank it",
      { ...experts, ...routed, n_group: 8, topk_group: 1 },
    ],
  ])("%s", async (problem, change) => {
    const message = await messageOf(
      { "config.json": json({ ...llama, ...change }) },
      readConfiguration,
    );
    const prefix = /^(attention_factor|mscale_all_dim)/.test(problem) ? "rope_scaling." : "";
    expect(message).toBe(`fuzzed/config.json: ${prefix}${problem}`);
  });

  test("the rotation of Gemma 3 is computed once, not for each layer", async () => {
    const gemma = {
      ...llama,
      model_type: "gemma3_text",
      head_dim: 2 ** 15,
      num_hidden_layers: 4096,
      sliding_window: 8,
    };
    expect(await messageOf({ "config.json": json(gemma) }, readConfiguration)).toBeUndefined();
  });
});

describe("tokenizer files", () => {
  const model = { type: "WordPiece", unk_token: "a", vocab: { a: 0 } };
  const unigram = { type: "Unigram", vocab: [["a", 0]] };

  test.each<[problem: string, tokenizer: object]>([
    [
      "pre_tokenizer.length must be an integer from 1, found 0", // it never ended
      { model, pre_tokenizer: { type: "FixedLength", length: 0 } },
    ],
    [
      'normalizer.pattern must be {"Regex": text} or {"String": text}, found 5', // it was ignored
      { model, normalizer: { type: "Replace", pattern: 5, content: "" } },
    ],
    [
      "normalizer.prepend must be a text, found undefined", // texts began with "undefined"
      { model, normalizer: { type: "Prepend" } },
    ],
    [
      "decoder.decoders[0].start must be an integer from 0, found Infinity",
      {
        model,
        decoder: {
          type: "Sequence",
          decoders: [{ type: "Strip", content: " ", start: Infinity, stop: 0 }],
        },
      },
    ],
    ["model.unk_id = 1 is not below 1, the number of pieces", { model: { ...unigram, unk_id: 1 } }],
    [
      'model.unk_id must be an integer from 0 to 4194303, found "a"',
      { model: { ...unigram, unk_id: "a" } },
    ],
    [
      "pre_tokenizer could make a text more than 4096 times as long",
      {
        model,
        pre_tokenizer: {
          type: "Sequence",
          pretokenizers: Array.from({ length: 8 }, () => ({
            type: "ByteLevel",
            add_prefix_space: true,
          })),
        },
      },
    ],
    [
      "normalizer could make a text more than 4096 times as long",
      {
        model,
        normalizer: {
          type: "Sequence",
          normalizers: Array.from({ length: 13 }, () => ({
            type: "Replace",
            pattern: { String: "a" },
            content: "aa",
          })),
        },
      },
    ],
  ])("%s", async (problem, tokenizer) => {
    const text = JSON.stringify(tokenizer, (_, value: unknown) =>
      value === Infinity ? "@" : value,
    );
    const files = { "tokenizer.json": encode(text.replace('"@"', "1e999")) };
    expect(await messageOf(files, readTexts)).toBe(`fuzzed/tokenizer.json: ${problem}`);
  });

  test("a character without a token in a Unigram vocabulary without an unknown one", async () => {
    const files = { "tokenizer.json": json({ model: unigram }) }; // the id was null
    expect(await messageOf(files, readTexts)).toMatch(/without a token/);
  });

  test.each<[file: string, problem: string, content: unknown]>([
    [
      "tokenizer_config.json",
      "bos_token must be a text or an object with a content, found 5",
      { bos_token: 5 },
    ],
    [
      "tokenizer_config.json",
      "chat_template must be a text or a list, found 5",
      { chat_template: 5 },
    ],
    [
      "tokenizer_config.json",
      "chat template: Unknown StringValue filter: x",
      { chat_template: "{{ 'a' | x }}" },
    ],
    [
      "generation_config.json",
      "eos_token_id = -1 must be a token id or a list of them",
      { eos_token_id: -1 },
    ],
    [
      "generation_config.json",
      "eos_token_id = [0.5] must be a token id or a list of them",
      { eos_token_id: [0.5] },
    ],
  ])("%s: %s", async (file, problem, content) => {
    const files = { "tokenizer.json": json({ model }), [file]: json(content) };
    expect(await messageOf(files, readTexts)).toBe(`fuzzed/${file}: ${problem}`);
  });

  test.each([
    "'a' | indent(500000000)",
    "'a' | indent(width=101)",
    "[1] | tojson(indent=101)",
    "'a' | indent(*[101])",
  ])("%s is refused before it is made", async (expression) => {
    const files = { "chat_template.jinja": encode(`{{ ${expression} }}`) };
    expect(await messageOf(files, readTexts)).toBe(
      "fuzzed/chat_template.jinja: chat template: the template indents by more than 100 spaces",
    );
  });

  test("what a template says when it refuses is cut", async () => {
    const files = { "chat_template.jinja": encode("{{ raise_exception(range(9999) | join) }}") };
    const message = await messageOf(files, readTexts);
    expect(message).toMatch(
      /^fuzzed\/chat_template\.jinja: chat template: 0123456789101112.*\.\.\.$/,
    );
    expect(message).toHaveLength("fuzzed/chat_template.jinja: chat template: ".length + 1003);
  });

  test("a template in a file of its own is named", async () => {
    const files = { "chat_template.jinja": encode("{% if %}") };
    expect(await messageOf(files, readTexts)).toBe(
      "fuzzed/chat_template.jinja: chat template: Unexpected token: CloseStatement",
    );
  });
});

test("merges of a GGUF vocabulary that repeats long tokens are bounded", async () => {
  const long = Array.from({ length: 256 }, (_, i) => "a".repeat(i + 1));
  const tokens = [...long, ...Array<string>(1500).fill("a".repeat(256))];
  const content = ggufContent(
    { architecture: "llama", biased: false, tied: false },
    {
      "tokenizer.ggml.tokens": texts(tokens),
      "tokenizer.ggml.scores": list(
        6,
        tokens.map(() => 0),
      ),
      "tokenizer.ggml.token_type": list(
        5,
        tokens.map(() => 1),
      ),
    },
  );
  expect(await messageOf({ "x.gguf": ggufBytes(content) }, readGgufFile)).toBe(
    "fuzzed/x.gguf: tokenizer.ggml.tokens: the merges take more than 67108864 characters",
  );
});
