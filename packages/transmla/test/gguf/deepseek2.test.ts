// DeepSeek models as GGUF files of architecture deepseek2. That stock llama.cpp runs them alike is for acceptance/llama.cpp.
import { fc, test as prop } from "@fast-check/vitest";
import { cpuBackend } from "@transmla/backend-cpu";
import { UnsupportedError } from "@transmla/core";
import { afterEach, expect, test } from "vitest";

import type { Folder } from "../../src/checkpoint/folder.ts";
import { readGguf } from "../../src/checkpoint/gguf/file.ts";
import { memoryOutput } from "../../src/checkpoint/output.ts";
import { convertCheckpoint } from "../../src/convert/convert.ts";
import { ggufFolder } from "../../src/gguf/folder.ts";
import { loadModel } from "../../src/load.ts";
import { relativeError, SINGLE } from "../spec/errors.ts";
import { latentSizes } from "../spec/inputs/layers.ts";
import { latentModel, modelLogits, onBackend } from "../spec/inputs/models.ts";
import { asGguf, latentFolder } from "./latent-file.ts";

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

/** Models of every form that the format holds. */
const models = fc
  .record({
    size: latentSizes,
    change: fc.record({
      rms_norm_eps: fc.constantFrom(1e-6, 1e-5),
      rope_interleave: fc.boolean(),
      tie_word_embeddings: fc.boolean(),
      rope_parameters: fc.constantFrom(
        { rope_type: "default", rope_theta: 1000 },
        {
          rope_type: "yarn",
          rope_theta: 1000,
          factor: 4,
          mscale: 0.7,
          mscale_all_dim: 0.7,
          original_max_position_embeddings: 16,
        },
      ),
    }),
  })
  .map(({ size, change }) => {
    const model = latentModel({ ...size, biased: false });
    return { ...model, json: { ...model.json, ...change } };
  });

prop.prop([models], { numRuns: 30 })(
  "a model that is written and read back has its logits",
  async (model) => {
    using source = onBackend(backend, model);
    using read = await loadModel(await ggufFolder(await asGguf(model, "F32"), "model.gguf"), {
      backend,
    });
    const expected = await modelLogits(source, [model.tokens]);
    expect(relativeError(await modelLogits(read, [model.tokens]), expected)).toBeLessThan(SINGLE);
  },
);

const size = {
  hidden: 32,
  heads: 2,
  nopeDim: 32,
  ropeDim: 8,
  valueDim: 16,
  latentRank: 64,
  queryRank: null,
  biased: false,
  layers: 1,
  tokens: 8,
  seed: 1,
};

test("the latent projection and norms stay F32, and rows that are not whole blocks become F16", async () => {
  const folder = await asGguf(latentModel({ ...size, latentRank: 48 }), "Q8_0");
  const file = await folder.open("model.gguf");
  const { tensors, metadata } = await readGguf(file);
  const types = Object.fromEntries(
    [...tensors].map(([name, { type, shape }]) => [name, `${type.name}[${shape.join(",")}]`]),
  );
  expect(types).toEqual({
    "token_embd.weight": "Q8_0[64,32]",
    "output.weight": "Q8_0[64,32]",
    "output_norm.weight": "F32[32]",
    "blk.0.attn_norm.weight": "F32[32]",
    "blk.0.attn_q.weight": "Q8_0[80,32]",
    "blk.0.attn_kv_a_mqa.weight": "F32[56,32]",
    "blk.0.attn_kv_a_norm.weight": "F32[48]",
    "blk.0.attn_k_b.weight": "Q8_0[2,48,32]",
    "blk.0.attn_v_b.weight": "F16[2,16,48]",
    "blk.0.attn_output.weight": "Q8_0[32,32]",
    "blk.0.ffn_norm.weight": "F32[32]",
    "blk.0.ffn_gate.weight": "Q8_0[64,32]",
    "blk.0.ffn_up.weight": "Q8_0[64,32]",
    "blk.0.ffn_down.weight": "Q8_0[32,64]",
  });
  const numbers = (name: string): unknown => metadata.get(`deepseek2.${name}`);
  expect(numbers("attention.head_count_kv")).toBe(1);
  expect(numbers("attention.key_length")).toBe(56);
  expect(numbers("attention.value_length")).toBe(48);
  expect(numbers("attention.key_length_mla")).toBe(40);
  expect(numbers("attention.value_length_mla")).toBe(16);
  expect(numbers("attention.q_lora_rank")).toBe(0);
  expect(numbers("leading_dense_block_count")).toBe(1);
  expect(numbers("expert_shared_count")).toBe(0);
  expect([...metadata.keys()].filter((key) => /expert_(used_)?count/.test(key))).toEqual([]);
  await file.close();
});

const refusals: readonly [change: object, problem: RegExp][] = [
  [{ rope_parameters: { rope_type: "linear", rope_theta: 1e4, factor: 2 } }, /rope_type "linear"/],
  [
    { rope_parameters: { rope_type: "dynamic", rope_theta: 1e4, factor: 2 } },
    /rope_type "dynamic"/,
  ],
  [
    { rope_parameters: { rope_type: "yarn", rope_theta: 1e4, factor: 2, mscale: 1 } },
    /rope_type "yarn"/,
  ],
  [
    {
      rope_parameters: {
        rope_type: "yarn",
        rope_theta: 1e4,
        factor: 2,
        mscale: 1,
        mscale_all_dim: 1,
        beta_fast: 16,
      },
    },
    /beta_fast = 16/,
  ],
  [{ hidden_act: "gelu_pytorch_tanh" }, /gelu activation/],
  [
    {
      first_k_dense_replace: 0,
      n_routed_experts: 2,
      n_group: 1,
      topk_group: 1,
      num_experts_per_tok: 1,
      moe_intermediate_size: 8,
    },
    /experts/,
  ],
];

test.each(refusals)("refuses %j", async (change, problem) => {
  const model = latentModel(size);
  const run = asGguf({ ...model, json: { ...model.json, ...change } }, "F32");
  await expect(run).rejects.toThrow(UnsupportedError);
  await expect(run).rejects.toThrow(problem);
});

test("refuses biases, heads without a part that is not rotated, and a model without tokenizer", async () => {
  await expect(asGguf(latentModel({ ...size, queryRank: 4, biased: true }), "F32")).rejects.toThrow(
    "convert: llama.cpp has no biases in this architecture",
  );
  await expect(asGguf(latentModel({ ...size, nopeDim: 0 }), "F32")).rejects.toThrow(
    "convert: llama.cpp aborts where heads have no part without RoPE (qk_nope_head_dim = 0)",
  );
  const files = await latentFolder(latentModel(size));
  const bare: Folder = {
    ...files,
    exists: async (name) => name !== "tokenizer.json" && files.exists(name),
  };
  await expect(
    convertCheckpoint(bare, memoryOutput(), { method: "none", gguf: "F32" }),
  ).rejects.toThrow(
    "convert: llama.cpp aborts without a tokenizer, and there is no tokenizer.json; add one (files)",
  );
});
