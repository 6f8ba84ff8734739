import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { tensor, type Tensor } from "@transmla/core";
import { afterAll, afterEach, describe, expect, test } from "vitest";

import { bundledModel } from "../../../src/bundled.ts";
import { diskFolder } from "../../../src/checkpoint/disk.ts";
import { blobFolder } from "../../../src/checkpoint/folder.ts";
import { memoryOutput } from "../../../src/checkpoint/output.ts";
import { convert, convertCheckpoint } from "../../../src/convert/convert.ts";
import { chooseLatentSizes } from "../../../src/convert/latent/choose-sizes.ts";
import type { LatentRecipe } from "../../../src/convert/latent/recipe.ts";
import { compare, cutWindows } from "../../../src/evaluate/evaluate.ts";
import { loadModel } from "../../../src/load.ts";
import { cacheWidth } from "../../../src/model/config/model-config.ts";
import { Model } from "../../../src/model/model.ts";

const backend = await cpuBackend();
const source = await loadModel(bundledModel, { backend });
const text = await readFile(join(bundledModel, "sample.txt"), "utf8");
const windows = cutWindows(source.assets.tokenizer!.encode(text), 128, 48);
const calibration = windows.slice(0, 6);
const selection = windows.slice(40, 42);
const held = backend.memory();

afterEach(() => expect(backend.memory()).toEqual(held));
afterAll(() => source[Symbol.dispose]());

/** How far the predictions of a conversion are from the source's, on windows that no calibration saw. */
async function divergence(recipe: LatentRecipe): Promise<number> {
  using converted = await convert(source, { method: "latent", calibration, ...recipe });
  const [comparison] = await compare(source, [converted], selection);
  return comparison!.meanKl;
}

test("a latent conversion caches what it says and predicts much as the source does", async () => {
  using converted = await convert(source, {
    method: "latent",
    ropeDim: 24,
    latentRank: 72,
    calibration,
  });
  expect(cacheWidth(source.config.attention)).toBe(256);
  expect(cacheWidth(converted.config.attention)).toBe(96);
  expect(converted.huggingFaceConfig).toMatchObject({
    model_type: "deepseek_v3",
    kv_lora_rank: 72,
    qk_rope_head_dim: 24,
    rope_theta: 1000,
    transmla_conversion: { method: "latent", calibration_windows: 6, calibration_tokens: 768 },
  });
  const [comparison] = await compare(source, [converted], selection);
  expect(comparison!.meanKl).toBeLessThan(0.1);
});

test("mean phase and refits bring the predictions nearer, and whitening changes nothing", async () => {
  const sizes = { ropeDim: 16, latentRank: 48, logitRefit: false };
  const whole = await divergence(sizes);
  expect(await divergence({ ...sizes, phase: "none" })).toBeGreaterThan(1.2 * whole);
  expect(await divergence({ ...sizes, outputRidge: "none" })).toBeGreaterThan(1.2 * whole);
  expect(await divergence({ ...sizes, logitRefit: true })).toBeLessThan(0.9 * whole);
  const unwhitened = await divergence({ ...sizes, whiten: false });
  expect(Math.abs(unwhitened / whole - 1)).toBeLessThan(1e-3);
});

test("a checkpoint that is converted and loaded is the model that is converted in memory", async () => {
  const options = {
    method: "latent",
    ropeDim: 8,
    latentRank: 20,
    calibration: calibration.slice(0, 1),
  } as const;
  using inMemory = await convert(source, options);
  const output = memoryOutput();
  await convertCheckpoint(diskFolder(bundledModel), output, { ...options, backend });
  using loaded = await loadModel(blobFolder(output.files), { backend });
  expect(loaded.config).toEqual(inMemory.config);
  expect([...loaded.tensors.keys()].toSorted()).toEqual([...inMemory.tensors.keys()].toSorted());
  for (const [name, tensor] of loaded.tensors) {
    expect(await tensor.read()).toEqual(await inMemory.tensors.get(name)!.read());
  }
});

test("sizes are chosen by the divergence on held-out windows, best first", async () => {
  const seen: number[] = [];
  const candidates = await chooseLatentSizes(source, {
    cache: 96,
    calibration: calibration.slice(0, 1),
    selection: selection.slice(0, 1),
    onCandidate: ({ ropeDim }) => seen.push(ropeDim),
  });
  expect(seen).toEqual([16, 20, 24, 32]);
  expect(candidates.map(({ ropeDim, latentRank }) => ropeDim + latentRank)).toEqual(
    seen.map(() => 96),
  );
  const divergences = candidates.map(({ meanKl }) => meanKl);
  expect(divergences).toEqual(divergences.toSorted((a, b) => a - b));
  expect(candidates[0].ropeDim).not.toBe(16);
});

test("two tokens, and heads without queries or keys, are enough to calibrate on", async () => {
  const silent = new Map<string, Tensor>();
  for (const [name, held] of source.tensors) {
    const values = await held.read();
    // The first of the heads that share a key asks nothing; the last key is nothing.
    if (name.endsWith("q_proj.weight")) values.fill(0, 0, 32 * 256);
    if (name.endsWith("k_proj.weight")) values.fill(0, 96 * 256);
    silent.set(name, tensor(backend, values, held.shape));
  }
  using model = new Model(backend, source.huggingFaceConfig, silent, source.assets);
  const options = { method: "latent", ropeDim: 24, latentRank: 72 } as const;
  for (const target of ["transformers", "own"] as const) {
    using converted = await convert(model, { ...options, target, calibration: [[13, 21]] });
    using cache = converted.createCache(4);
    using logits = converted.forward([13, 21, 7, 8], cache);
    expect((await logits.read()).every(Number.isFinite)).toBe(true);
  }
});

test("norms of heads: linear ones are fitted, and what they change is reported", async () => {
  const normed = new Map<string, Tensor>();
  for (const [name, held] of source.tensors) {
    normed.set(name, tensor(backend, await held.read(), held.shape));
    const part = /^(.*self_attn\.[qk])_proj\.weight$/.exec(name)?.[1];
    if (part) {
      const weight = Array.from({ length: 32 }, (_, i) => 1.5 + 0.3 * Math.sin(i));
      normed.set(`${part}_norm.weight`, tensor(backend, weight, [32]));
    }
  }
  const json = { ...source.huggingFaceConfig, model_type: "qwen3" };
  using model = new Model(backend, json, normed, source.assets);
  const errors: (number | undefined)[] = [];
  using converted = await convert(model, {
    method: "latent",
    ropeDim: 24,
    latentRank: 72,
    calibration,
    onLayer: ({ linearError }) => errors.push(linearError),
  });
  expect(errors.map((error) => error! > 0.001 && error! < 0.1)).toEqual(errors.map(() => true));
  expect(converted.huggingFaceConfig).toMatchObject({
    model_type: "deepseek_v3",
    transmla_conversion: { head_norms: "linear" },
  });
  const [comparison] = await compare(model, [converted], selection);
  expect(comparison!.meanKl).toBeLessThan(0.07); // without norms to be replaced, 0.05
});

test("an abort frees what the calibration holds", async () => {
  const abort = new AbortController();
  const run = convert(source, {
    method: "latent",
    ropeDim: 8,
    latentRank: 8,
    calibration: calibration.slice(0, 1),
    signal: abort.signal,
    onProgress: ({ done }) => done === 20 && abort.abort(new Error("enough")),
  });
  await expect(run).rejects.toThrow("enough");
});

describe("refusals", () => {
  const run = (change: object): Promise<unknown> => {
    const options = { method: "latent", ropeDim: 8, latentRank: 8, calibration } as const;
    return convert(source, { ...options, ...change });
  };

  test.each([
    [{ ropeDim: 7 }, "ropeDim 7 must be an even number from 2 to the head width 32"],
    [{ ropeDim: 34 }, "ropeDim 34 must be an even number from 2 to the head width 32"],
    [{ latentRank: 257 }, "latentRank 257 must be from 1 to 256, the numbers that are cached now"],
  ])("%o", async (change, problem) => {
    await expect(run(change)).rejects.toThrow(`convert: ${problem}`);
  });

  test.each([
    [[], "there are no windows"],
    [[[1, 2], [3]], "window 1 has 1 tokens; it must have 2 to 512"],
    [[[0, 1024]], "token id 1024 of window 0 is not from 0 to 1023"],
  ])("windows %j", async (windows, problem) => {
    await expect(run({ calibration: windows })).rejects.toThrow(`calibration: ${problem}`);
  });

  test("a checkpoint without a backend", async () => {
    const options = { method: "latent", ropeDim: 8, latentRank: 8, calibration } as const;
    await expect(
      convertCheckpoint(diskFolder(bundledModel), memoryOutput(), options),
    ).rejects.toThrow("convert: latent needs a backend to calibrate on");
  });

  test("a cache that no split fits", async () => {
    await expect(chooseLatentSizes(source, { cache: 16, calibration, selection })).rejects.toThrow(
      "convert: a cache of 16 numbers per token and layer must be from 17 to 288",
    );
  });
});
