// Bad input: one line that names file, field and value; the right exit code; nothing half-written left behind.
import { cp, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import { run, type Run } from "./run.ts";

let folder = "";
let model = "";
let out = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "transmla-"));
  model = join(folder, "model");
  out = join(folder, "out");
  await cp(bundledModel, model, { recursive: true });
});
afterEach(() => rm(folder, { recursive: true }));

/** One line on stderr with this text, this exit code, and only the source in the folder. */
async function expectError(result: Run, code: number, message: string): Promise<void> {
  expect(result.stderr.replaceAll(folder, "DIR")).toBe(`error: ${message}\n`);
  expect(result.code).toBe(code);
  expect(await readdir(folder)).toEqual(["model"]);
}

const convertMerged = (): Promise<Run> => run("convert", model, out, "--method", "merged");
const generate = (...args: readonly string[]): Promise<Run> => run("generate", model, ...args);

/** Replaces the weights by a file with this header. */
async function writeHeader(header: string, dataBytes: number): Promise<void> {
  const bytes = Buffer.alloc(8 + header.length + dataBytes);
  bytes.writeBigUInt64LE(BigInt(header.length));
  bytes.write(header, 8);
  await writeFile(join(model, "model.safetensors"), bytes);
}

async function editConfig(change: Record<string, unknown>): Promise<void> {
  const path = join(model, "config.json");
  const config = JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;
  await writeFile(path, JSON.stringify({ ...config, ...change }));
}

test("truncated safetensors", async () => {
  await truncate(join(model, "model.safetensors"), 1_000_000);
  await expectError(
    await convertMerged(),
    1,
    'openSafetensors: tensor "model.layers.0.self_attn.k_proj.weight": data_offsets [983808,1032960] end beyond the 993976 bytes of data; the file is truncated (DIR/model/model.safetensors)',
  );
});

test("a header length beyond the file", async () => {
  const bytes = Buffer.alloc(16);
  bytes.writeBigUInt64LE(2n ** 60n);
  await writeFile(join(model, "model.safetensors"), bytes);
  await expectError(
    await convertMerged(),
    1,
    "openSafetensors: header length 1152921504606846976 is beyond the file's 16 bytes (DIR/model/model.safetensors)",
  );
});

test("overlapping offsets", async () => {
  const entry = (begin: number): object => ({
    dtype: "F32",
    shape: [2],
    data_offsets: [begin, begin + 8],
  });
  await writeHeader(JSON.stringify({ a: entry(0), b: entry(4) }), 12);
  await expectError(
    await convertMerged(),
    1,
    'openSafetensors: tensor "b" begins at 4, not at 8: it overlaps the tensor before it (DIR/model/model.safetensors)',
  );
});

test("offsets beyond the file", async () => {
  await writeHeader(JSON.stringify({ a: { dtype: "F32", shape: [2], data_offsets: [0, 8] } }), 4);
  await expectError(
    await convertMerged(),
    1,
    'openSafetensors: tensor "a": data_offsets [0,8] end beyond the 4 bytes of data; the file is truncated (DIR/model/model.safetensors)',
  );
});

test("a weight of another shape", async () => {
  await editConfig({ intermediate_size: 500 });
  await expectError(
    await generate("--prompt", "x"),
    1,
    "DIR/model: model.layers.0.mlp.gate_proj.weight must be [500,192], found [512,192]",
  );
});

test("a missing shard", async () => {
  await rm(join(model, "model.safetensors"));
  const index = { weight_map: { "model.norm.weight": "model-00001-of-00002.safetensors" } };
  await writeFile(join(model, "model.safetensors.index.json"), JSON.stringify(index));
  await expectError(
    await convertMerged(),
    1,
    "open: no such file (DIR/model/model-00001-of-00002.safetensors)",
  );
});

test("an unknown model_type", async () => {
  await editConfig({ model_type: "mamba" });
  await expectError(
    await convertMerged(),
    1,
    'DIR/model/config.json: model_type "mamba" is not supported; known: llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, smollm3, phi3, gemma2, gemma3_text, deepseek_v2, deepseek_v3, youtu',
  );
});

test("a field of the wrong type", async () => {
  await editConfig({ hidden_size: "192" });
  await expectError(
    await convertMerged(),
    1,
    'DIR/model/config.json: hidden_size must be an integer from 1 to 2147483648, found "192"',
  );
});

test("a field that changes the logits and is not supported", async () => {
  await editConfig({ final_logit_softcapping: 30 });
  await expectError(
    await convertMerged(),
    1,
    "DIR/model/config.json: final_logit_softcapping = 30 is not supported for llama",
  );
});

test("PyTorch pickles", async () => {
  await rm(join(model, "model.safetensors"));
  await writeFile(
    join(model, "pytorch_model.bin"),
    "openCheckpoint: pytorch_model.bin is a PyTorch pickle, which runs code when it is read; save it with Transformers: save_pretrained(folder, safe_serialization=True) (DIR/model)",
  );
  await expectError(
    await convertMerged(),
    1,
    "openCheckpoint: pytorch_model.bin is a PyTorch pickle, which runs code when it is read; save it with Transformers: save_pretrained(folder, safe_serialization=True) (DIR/model)",
  );
});

test("a missing tokenizer", async () => {
  await rm(join(model, "tokenizer.json"));
  await expectError(
    await generate("--prompt", "x"),
    1,
    "generate: the model has no tokenizer.json; pass token ids as the prompt",
  );
});

test("a missing folder", async () => {
  await rm(model, { recursive: true });
  const result = await convertMerged();
  await cp(bundledModel, model, { recursive: true });
  await expectError(result, 1, "open: no such folder (DIR/model)");
});

test("an empty prompt", async () => {
  await expectError(
    await generate("--prompt", ""),
    2,
    "generate: the prompt is empty; it needs at least one token",
  );
});

test("a prompt longer than the context", async () => {
  await expectError(
    await generate("--prompt", "to be or not ".repeat(200)),
    2,
    "generate: the prompt has 801 tokens, but the context has room for 512; shorten the prompt",
  );
});

test("an unusable sampling flag", async () => {
  await expectError(
    await generate("--prompt", "x", "--temperature", "-1"),
    2,
    "generate: temperature -1 must be at least 0",
  );
});

test("a sliding window that DeepSeek-V3 cannot express", async () => {
  await editConfig({ model_type: "mistral", sliding_window: 64 });
  await expectError(
    await convertMerged(),
    1,
    "convert: merged writes DeepSeek-V3, which has no sliding window (sliding_window = 64, max_position_embeddings = 512); for the runtime of this library use --target own",
  );
});

test("an output folder that exists", async () => {
  const result = await run("convert", model, model, "--method", "merged");
  await expectError(
    result,
    2,
    "createOutputFolder: the folder exists and is not empty; name another (DIR/model)",
  );
});

test("wrong usage", async () => {
  const unknown = await run("convert", model, out, "--method", "mergd");
  expect(unknown.code).toBe(2);
  expect(unknown.stderr).toContain("Allowed choices are factored, merged, latent.");
  const missing = await run("convert", model, "--method", "merged");
  expect(missing).toMatchObject({ code: 2, stderr: "error: missing required argument 'out'\n" });
});

test("errors are JSON too", async () => {
  await editConfig({ model_type: "mamba" });
  const { code, stdout } = await run("info", model, "--json");
  expect(code).toBe(1);
  expect(JSON.parse(stdout)).toEqual({
    error: expect.stringContaining('model_type "mamba" is not supported') as string,
  });
});
