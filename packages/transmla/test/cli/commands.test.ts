import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import { diskFolder } from "../../src/checkpoint/disk.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { run } from "./run.ts";

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "transmla-"));
});
afterEach(() => rm(folder, { recursive: true }));

const json = (text: string): Record<string, unknown> => JSON.parse(text) as Record<string, unknown>;

describe("info", () => {
  test("describes the bundled model and its caches", async () => {
    const { code, stdout } = await run("info", bundledModel);
    expect(code).toBe(0);
    expect(stdout).toMatchInlineSnapshot(`
      "llama, 2.85 M parameters, 6 layers, hidden 192, vocabulary 1024, context 512
      grouped-query attention, 8 query heads, 4 kv heads of 32

      form      numbers per token and layer  per token  per 512 tokens
      --------  ---------------------------  ---------  --------------
      original                          256   3.00 KiB        1.50 MiB
      factored                          256   3.00 KiB        1.50 MiB
      merged                            256   3.00 KiB        1.50 MiB
      Cached numbers are f16.
      "
    `);
  });

  test("works from a config.json alone", async () => {
    const config = {
      model_type: "llama",
      hidden_size: 4096,
      intermediate_size: 14336,
      num_hidden_layers: 32,
      num_attention_heads: 32,
      num_key_value_heads: 8,
      vocab_size: 128256,
      max_position_embeddings: 8192,
      rms_norm_eps: 1e-5,
    };
    await writeFile(join(folder, "config.json"), JSON.stringify(config));
    const { code, stdout } = await run(
      "info",
      join(folder, "config.json"),
      "--context",
      "32768",
      "--json",
    );
    expect(code).toBe(0);
    const result = json(stdout);
    expect(result["parameters"]).toBe(8_030_261_248);
    const [original] = result["forms"] as Record<string, unknown>[];
    expect(original).toMatchObject({
      numbersPerTokenAndLayer: 2048,
      bytesPerToken: 131_072,
      bytesPerContext: 2 ** 32,
    });
  });
});

describe("convert and verify", () => {
  test.each([
    ["factored", "--init", "svd"],
    ["factored", "--init", "identity"],
    ["merged", "--dtype", "f32"],
  ])("%s %s %s gives equal logits", async (method, option, value) => {
    const out = join(folder, "out");
    const converted = await run("convert", bundledModel, out, "--method", method, option, value);
    expect(converted).toMatchObject({ code: 0, stderr: "" });
    const verified = await run(
      "verify",
      bundledModel,
      out,
      "--text",
      join(bundledModel, "sample.txt"),
      "--max-windows",
      "1",
      "--json",
    );
    expect(verified.code).toBe(0);
    expect(json(verified.stdout)).toMatchObject({ passed: true, topAgreement: 1 });
    expect(await readdir(out)).toEqual(
      expect.arrayContaining(["tokenizer.json", "config.json", "model.safetensors"]),
    );
  });

  test("verify fails above the tolerance", async () => {
    const out = join(folder, "out");
    await run("convert", bundledModel, out, "--method", "factored", "--dtype", "bf16");
    const { code, stdout } = await run("verify", bundledModel, out);
    expect(code).toBe(1);
    expect(stdout).toContain("not equal: the tolerance is 0.0001");
  });

  test("a model with f16 activations is nearly itself", async () => {
    const text = join(folder, "windows.json");
    await writeFile(text, JSON.stringify({ windows: [[5, 6, 7, 8, 9, 10, 11, 12]] }));
    const half = ["--activations", "f16", "--text", text, "--tolerance", "0.1", "--json"];
    const { code, stdout } = await run("verify", bundledModel, bundledModel, ...half);
    expect(code).toBe(0);
    expect(json(stdout)["maxLogitDifference"]).toBeGreaterThan(0);
  });

  test("a merged bf16 model keeps the weights of a bf16 source exactly", async () => {
    const { stdout } = await run(
      "convert",
      bundledModel,
      join(folder, "out"),
      "--method",
      "merged",
      "--dtype",
      "bf16",
      "--json",
    );
    expect(json(stdout)["rounding"]).toMatchObject({ exact: 63, tensors: 63, worst: 0 });
  });
});

test("evaluate prints the perplexity that the model card states", async () => {
  const { code, stdout } = await run(
    "evaluate",
    bundledModel,
    "--text",
    join(bundledModel, "sample.txt"),
    "--max-windows",
    "2",
    "--json",
  );
  expect(code).toBe(0);
  const { perplexity, tokens } = json(stdout);
  expect(tokens).toBe(1022);
  expect(perplexity).toBeGreaterThan(8);
  expect(perplexity).toBeLessThan(12);
});

test("generate streams a text that a seed determines", async () => {
  const args = [
    "generate",
    bundledModel,
    "--prompt",
    "ROMEO:",
    "--max-tokens",
    "12",
    "--temperature",
    "0.8",
    "--seed",
    "5",
    "--quiet",
  ];
  const [first, second, other] = [
    await run(...args),
    await run(...args),
    await run(...args, "--seed", "6"),
  ];
  expect(first.stdout).toMatch(/^ROMEO:/);
  expect(second.stdout).toBe(first.stdout);
  expect(other.stdout).not.toBe(first.stdout);
});

test("logits are written as safetensors", async () => {
  const tokens = join(folder, "tokens.json");
  const out = join(folder, "logits.safetensors");
  await writeFile(tokens, "[1, 2, 3]");
  expect(await run("logits", bundledModel, "--tokens", tokens, "--out", out)).toMatchObject({
    code: 0,
  });
  const file = await openSafetensors(await diskFolder(folder).open("logits.safetensors"));
  expect(file.tensors.get("logits")).toEqual(
    expect.objectContaining({ dtype: "F32", shape: [3, 1024] }),
  );
  await file.close();
});

test("demo shows equal logits and equal texts", async () => {
  const { code, stdout } = await run("demo", "--json");
  expect(code).toBe(0);
  expect(json(stdout)).toMatchObject({ sameText: true });
});
