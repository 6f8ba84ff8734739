import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { afterAll, afterEach, describe, expect, test } from "vitest";

import { bundledModel } from "../../../src/bundled.ts";
import { diskFolder } from "../../../src/checkpoint/disk.ts";
import { blobFolder } from "../../../src/checkpoint/folder.ts";
import { memoryOutput } from "../../../src/checkpoint/output.ts";
import { convert, convertCheckpoint } from "../../../src/convert/convert.ts";
import {
  chooseLayerSizes,
  type LayerSizes,
} from "../../../src/convert/latent/projected/choose-layer-sizes.ts";
import type { ProjectedRecipe } from "../../../src/convert/latent/projected/recipe.ts";
import { compare, cutWindows } from "../../../src/evaluate/evaluate.ts";
import { loadModel } from "../../../src/load.ts";
import { cacheWidth } from "../../../src/model/config/model-config.ts";

const backend = await cpuBackend();
const source = await loadModel(bundledModel, { backend });
const text = await readFile(join(bundledModel, "sample.txt"), "utf8");
const windows = cutWindows(source.assets.tokenizer!.encode(text), 128, 48);
const calibration = windows.slice(0, 4);
const selection = windows.slice(40, 42);
const held = backend.memory();

afterEach(() => expect(backend.memory()).toEqual(held));
afterAll(() => source[Symbol.dispose]());

const own = { method: "latent", target: "own" } as const;

/** How far the predictions of a conversion are from the source's, on windows that no calibration saw. */
async function divergence(recipe: ProjectedRecipe): Promise<number> {
  using converted = await convert(source, { ...own, calibration, ...recipe });
  const [comparison] = await compare(source, [converted], selection);
  return comparison!.meanKl;
}

test("positions and the exact first token bring a small cache near the source", async () => {
  const closed = { ropeDim: 20, latentRank: 44, logitRefit: false };
  const whole = await divergence(closed);
  expect(whole).toBeLessThan(0.05); // 0.15 in DeepSeek-V3
  expect(await divergence({ ...closed, positions: false })).toBeGreaterThan(1.2 * whole);
});

test("a checkpoint that is converted and loaded is the model that is converted in memory", async () => {
  const options = {
    ...own,
    ropeDim: [0, 8, 8, 16, 8, 8],
    latentRank: [20, 20, 16, 12, 20, 20],
    calibration: [calibration[0]!.slice(0, 48)],
  } as const;
  using inMemory = await convert(source, options);
  const output = memoryOutput();
  await convertCheckpoint(diskFolder(bundledModel), output, { ...options, backend });
  using loaded = await loadModel(blobFolder(output.files), { backend });
  expect(loaded.config).toEqual(inMemory.config);
  const { attention } = loaded.config;
  expect(attention).toMatchObject({ kind: "projected", exactFirst: true });
  expect(cacheWidth(attention)).toBe((20 + 28 + 24 + 28 + 28 + 28) / 6);
  for (const [name, tensor] of loaded.tensors) {
    expect(await tensor.read()).toEqual(await inMemory.tensors.get(name)!.read());
  }
});

test("sizes are chosen for every layer", async () => {
  const errors: number[] = [];
  const tried: LayerSizes[] = [];
  const { ropeDim, latentRank, layers, meanKl } = await chooseLayerSizes(source, {
    cache: 48,
    calibration: calibration.slice(0, 1),
    selection: calibration.slice(1, 2),
    onLayer: (_, error) => errors.push(error),
    onCandidate: (sizes) => tried.push(sizes),
  });
  using converted = await convert(source, { ...own, ropeDim, latentRank, layers, calibration });
  const [comparison] = await compare(source, [converted], calibration.slice(1, 2));
  expect(comparison!.meanKl).toBe(meanKl);
  const cached = ropeDim.map((width, layer) => width + latentRank[layer]!);
  const average = cached.reduce((sum, numbers) => sum + numbers, 0) / 6;
  expect(average).toBeLessThanOrEqual(48);
  expect(average).toBeGreaterThan(47);
  expect(tried).toHaveLength(2);
  expect(new Set(tried[0]!.latentRank).size).toBeGreaterThan(1); // layers differ in what they need
  expect(meanKl).toBe(Math.min(...tried.map((sizes) => sizes.meanKl)));
  expect(Math.min(...ropeDim)).toBeGreaterThan(0); // this model reads positions nearby in every layer
  expect(Math.max(...errors)).toBeLessThan(0.2);
});

describe("refusals", () => {
  const run = (change: object): Promise<unknown> =>
    convert(source, { ...own, ropeDim: 8, latentRank: 8, calibration, ...change });

  test.each([
    [{ ropeDim: 7 }, "ropeDim 7 must be an even number from 0 to 128"],
    [{ latentRank: 257 }, "latentRank 257 must be from 1 to 256, the numbers that are cached now"],
    [{ ropeDim: [8, 8] }, "ropeDim has 2 sizes for 6 layers"],
    [{ recipe: "transmla" }, "--recipe transmla writes DeepSeek-V3; use --target transformers"],
    [
      { target: "transformers", ropeDim: [8, 8, 8, 8, 8, 8] },
      "DeepSeek-V3 has the same sizes in all layers; use --target own",
    ],
  ])("%o", async (change, problem) => {
    await expect(run(change)).rejects.toThrow(`convert: ${problem}`);
  });
});
