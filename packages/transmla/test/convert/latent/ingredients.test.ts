// Ingredients of the default recipe that can be exchanged, on the bundled model.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { afterEach, expect, test } from "vitest";

import { bundledModel } from "../../../src/bundled.ts";
import { convert } from "../../../src/convert/convert.ts";
import type { LatentRecipe } from "../../../src/convert/latent/recipe.ts";
import { compare, cutWindows } from "../../../src/evaluate/evaluate.ts";
import { loadModel } from "../../../src/load.ts";
import type { Model } from "../../../src/model/model.ts";

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

const readWindows = (model: Model): number[][] =>
  cutWindows(
    model.assets.tokenizer!.encode(readFileSync(join(bundledModel, "sample.txt"), "utf8")),
    64,
  );

test("several components of each frequency are nearer than one, and stated as listed frequencies", async () => {
  using model = await loadModel(bundledModel, { backend });
  const windows = readWindows(model);
  const converted = (recipe: LatentRecipe): Promise<Model> =>
    convert(model, {
      method: "latent",
      ...recipe,
      logitRefit: false,
      calibration: windows.slice(0, 4),
    });
  using one = await converted({ ropeDim: 24, latentRank: 104 });
  using two = await converted({ ropeDim: 48, latentRank: 80, components: 2 });
  const found = await compare(model, [one, two], windows.slice(-2));
  expect(found[1]!.meanKl).toBeLessThan(0.6 * found[0]!.meanKl);
  const { frequencies } = model.config.ropes[0]!;
  const expected = Array.from({ length: 24 }, (_, slot) => frequencies[Math.floor(slot / 2)]!);
  const stated = two.config.ropes[0]!.frequencies;
  expect(stated).toHaveLength(24);
  for (const [i, frequency] of expected.entries())
    expect(stated[i]! / frequency).toBeCloseTo(1, 12);
  expect(two.huggingFaceConfig["rope_parameters"]).toMatchObject({ rope_type: "longrope" });
});

test.each<[string, Partial<LatentRecipe>]>([
  ["real components", { field: "real" }],
  ["frequencies spread evenly", { band: "even", ropeDim: 16, latentRank: 80 }],
  ["errors that count by their size", { metric: "none" }],
])("with %s the predictions are further", async (_, change) => {
  using model = await loadModel(bundledModel, { backend });
  const windows = readWindows(model);
  const sizes = { ropeDim: change.ropeDim ?? 24, latentRank: change.latentRank ?? 32 };
  const usual = { ...sizes, logitRefit: false, outputRidge: "none" } as const;
  const options = { method: "latent", calibration: windows.slice(0, 4) } as const;
  using best = await convert(model, { ...options, ...usual });
  using changed = await convert(model, { ...options, ...usual, ...change });
  const found = await compare(model, [best, changed], windows.slice(-2));
  expect(found[1]!.meanKl).toBeGreaterThan(found[0]!.meanKl);
});

test.each<[LatentRecipe, string]>([
  [
    { ropeDim: 24, latentRank: 8, components: 5 },
    "components 5 must be from 1 to 4, the number of kv heads",
  ],
  [
    { ropeDim: 26, latentRank: 8, components: 2 },
    "ropeDim 26 must be a multiple of 4 from 4 to 2 head widths, 64",
  ],
  [{ ropeDim: 34, latentRank: 8 }, "ropeDim 34 must be an even number from 2 to the head width 32"],
  [{ ropeDim: 24, latentRank: 8, band: "even" }, "ropeDim 24 of an even band must divide 32"],
])("%j is refused", async (recipe, message) => {
  using model = await loadModel(bundledModel, { backend });
  const options = { method: "latent", calibration: [[1, 2]] } as const;
  await expect(convert(model, { ...options, ...recipe })).rejects.toThrow(`convert: ${message}`);
});
