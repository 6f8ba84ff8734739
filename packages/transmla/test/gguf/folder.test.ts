import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { FormatError, UnsupportedError } from "@transmla/core";
import { afterAll, afterEach, describe, expect, test } from "vitest";

import { blobFolder, FileError, readJson, type Folder } from "../../src/checkpoint/folder.ts";
import { openCheckpoint } from "../../src/checkpoint/shards.ts";
import { ggufFolder } from "../../src/gguf/folder.ts";
import { loadModel, readConfig } from "../../src/load.ts";
import { unknownFields } from "../../src/model/config/known-fields.ts";
import { run } from "../cli/run.ts";
import {
  ggufContent,
  huggingFaceFolder,
  openContent,
  openSmall,
  type SmallModel,
} from "./small-model.ts";
import { f32, field, floats, ggufBytes, list, text, u32, type Field } from "./writer.ts";

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

const ids = [1, 7, 5, 8, 6, 9, 4, 2, 3];
const llama: SmallModel = { architecture: "llama", biased: false, tied: true };

async function logits(folder: Folder): Promise<Float32Array> {
  using model = await loadModel(folder, { backend });
  using cache = model.createCache(ids.length);
  using result = model.forward(ids, cache, { logits: "all" });
  return Float32Array.from(await result.read());
}

describe("a GGUF file has the logits of the model that it was made from", () => {
  test.each<SmallModel>([
    llama,
    { architecture: "llama", biased: true, tied: false },
    { architecture: "qwen2", biased: true, tied: true },
    { architecture: "qwen2", biased: true, tied: false },
  ])("%o", async (model) => {
    const gguf = await openContent(ggufContent(model));
    expect(await logits(gguf)).toEqual(await logits(await huggingFaceFolder(model)));
  });

  test("with linear scaling, in both spellings", async () => {
    const scaled = { rope_scaling: { rope_type: "linear", factor: 3 } };
    const expected = await logits(await huggingFaceFolder(llama, scaled));
    const both = [
      { "llama.rope.scaling.type": text("linear"), "llama.rope.scaling.factor": f32(3) },
      { "llama.rope.scale_linear": f32(3) },
    ];
    for (const change of both) expect(await logits(await openSmall(change))).toEqual(expected);
    expect(expected).not.toEqual(await logits(await huggingFaceFolder(llama)));
  });

  test("with rotary factors", async () => {
    const factors = [1, 2, 5];
    const list = factors.map((factor) => factor * 2);
    const scaled = {
      rope_scaling: {
        rope_type: "longrope",
        short_factor: list,
        long_factor: list,
        factor: 1,
        attention_factor: 1,
        original_max_position_embeddings: 64,
      },
    };
    const content = ggufContent(llama, {
      "llama.rope.scaling.type": text("linear"),
      "llama.rope.scaling.factor": f32(2),
    });
    const tensors = [...content.tensors!, floats("rope_freqs.weight", [3], factors)];
    const expected = await logits(await huggingFaceFolder(llama, scaled));
    expect(await logits(await openContent({ ...content, tensors }))).toEqual(expected);
  });
});

test("weights are f32 under Hugging Face names, and numbers are the same", async () => {
  const source = await openCheckpoint(await openSmall());
  const expected = await openCheckpoint(await huggingFaceFolder(llama));
  expect(new Set(source.tensors.keys())).toEqual(new Set(expected.tensors.keys()));
  for (const [name, { dtype, shape }] of source.tensors) {
    expect({ dtype, shape }).toEqual({ dtype: "F32", shape: expected.tensors.get(name)!.shape });
    expect(await source.numbers(name)).toEqual(await expected.numbers(name));
    expect(await source.bytes(name)).toEqual(await expected.bytes(name));
  }
  await source.close();
  await expect(source.numbers("model.norm.weight")).rejects.toThrow("used after close");
});

test("config.json says what the metadata say", async () => {
  expect(await readJson(await openContent(ggufContent(llama)), "config.json", 1e4)).toEqual({
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: 16,
    intermediate_size: 24,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 6,
    hidden_act: "silu",
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    rope_theta: 1000,
    vocab_size: 11,
    tie_word_embeddings: true,
    attention_bias: false,
    mlp_bias: false,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: "float32",
  });
});

describe("a file is refused", () => {
  test.each<readonly [Readonly<Record<string, Field>>, string]>([
    [
      { "general.architecture": text("gemma") },
      'general.architecture = "gemma" is not supported; known: llama, qwen2, deepseek2',
    ],
    [
      { "llama.block_count": text("2") },
      'llama.block_count must be an integer from 1 to 2147483648, found "2"',
    ],
    [
      { "llama.attention.head_count_kv": list(4, [2, 1]) },
      "llama.attention.head_count_kv must be an integer from 1 to 2147483648, found [2,1]",
    ],
    [
      { "llama.attention.value_length": u32(8) },
      "llama.attention.value_length = 8 differs from the width of a head, 6: not supported",
    ],
    [
      { "llama.rope.dimension_count": u32(4) },
      "llama.rope.dimension_count = 4 differs from the width of a head, 6: not supported",
    ],
  ])("for its metadata: %#", async (change, problem) => {
    const kind = problem.includes("known:") ? UnsupportedError : FormatError;
    await expect(openSmall(change)).rejects.toThrow(new kind(`dir/x.gguf: ${problem}`));
  });

  test("for what the model has besides", async () => {
    const experts = await openSmall({ "llama.expert_count": u32(4) });
    await expect(readConfig(experts)).rejects.toThrow(
      "dir/x.gguf/config.json: num_local_experts = 4",
    );
    const content = ggufContent(llama);
    const tensors = [
      ...content.tensors!,
      floats("blk.0.ffn_gate_inp.weight", [4, 16], new Float32Array(64)),
    ];
    await expect(openCheckpoint(await openContent({ ...content, tensors }))).rejects.toThrow(
      new UnsupportedError(
        'ggufFolder: tensor "blk.0.ffn_gate_inp.weight" has no place in a model of this architecture (dir/x.gguf)',
      ),
    );
    await expect(openContent({ ...content, tensors: [] })).rejects.toThrow(
      new FormatError("dir/x.gguf: there is no tensor token_embd.weight: the file holds no model"),
    );
    const parts = openSmall({ "split.count": field(2, 3) });
    await expect(parts).rejects.toThrow(
      new UnsupportedError(
        "dir/x.gguf: split.count = 3: the file is a part of a model; join the parts with llama-gguf-split --merge",
      ),
    );
    const factors = [...content.tensors!, floats("rope_freqs.weight", [1, 3], [1, 1, 1])];
    await expect(openContent({ ...content, tensors: factors })).rejects.toThrow(
      new FormatError(
        "dir/x.gguf: rope_freqs.weight must be a vector of at most 65536 factors, found [1,3]",
      ),
    );
  });

  test("when it has changed", async () => {
    const bytes = ggufBytes(ggufContent(llama));
    const files = new Map([["x.gguf", new Blob([bytes])]]);
    const folder = await ggufFolder(blobFolder(files, "dir"), "x.gguf");
    files.set("x.gguf", new Blob([bytes, "more"]));
    await expect(openCheckpoint(folder)).rejects.toThrow(
      new FileError(
        `ggufFolder: changed from ${bytes.length} to ${bytes.length + 4} bytes since its header was read (dir/x.gguf)`,
      ),
    );
  });
});

test("keys of the architecture that nobody knows are reported", async () => {
  const novel = { "llama.attention.novel": f32(0.5), "llama.large": list(10, [2n ** 60n]) };
  const { json } = await readConfig(await openSmall(novel));
  expect(unknownFields(json)).toEqual(["llama.attention.novel", "llama.large"]);
  expect(json["llama.attention.novel"]).toBe(0.5);
});

describe("the command line", () => {
  const folder = mkdtempSync(join(tmpdir(), "transmla-gguf-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const model = join(folder, "small.gguf");
  writeFileSync(
    model,
    ggufBytes(ggufContent({ architecture: "qwen2", biased: true, tied: false })),
  );

  test("converts a GGUF file, and the result is equal", async () => {
    const info = await run("info", model, "--quiet");
    expect(info.stdout).toContain("qwen2, 0.01 M parameters, 2 layers, hidden 16");
    for (const method of ["factored", "merged"]) {
      const out = join(folder, method);
      expect(await run("convert", model, out, "--method", method, "--quiet")).toMatchObject({
        code: 0,
      });
      const { code, stdout } = await run("verify", model, out, "--quiet", "--window", "32");
      expect({ code, stdout }).toMatchObject({ code: 0 });
      expect(readFileSync(join(out, "tokenizer.json"), "utf8")).toContain("▁ab");
    }
    const generated = await run(
      "generate",
      model,
      "--prompt",
      "ab a",
      "--max-tokens",
      "3",
      "--quiet",
    );
    expect(generated).toMatchObject({ code: 0 });
  });
});
