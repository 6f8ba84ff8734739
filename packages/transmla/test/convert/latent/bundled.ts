// The bundled model, converted layer by layer with every intermediate value.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import type { Backend } from "@transmla/core";
import { expect } from "vitest";

import { bundledModel } from "../../../src/bundled.ts";
import { diskFolder } from "../../../src/checkpoint/disk.ts";
import { openCheckpoint } from "../../../src/checkpoint/shards.ts";
import { convertLayer, type ConvertedLayer } from "../../../src/convert/latent/convert-layer.ts";
import { LatentRun } from "../../../src/convert/latent/latent-run.ts";
import { completeRecipe, type LatentRecipe } from "../../../src/convert/latent/recipe.ts";
import { SourceLayers } from "../../../src/convert/latent/source-layers.ts";
import { readConfig } from "../../../src/load.ts";
import type { GroupedAttention, ModelConfig } from "../../../src/model/config/model-config.ts";
import { shared } from "../../shared.ts";

/** Windows of token ids. */
export type Windows = readonly (readonly number[])[];

/** Reads a JSON file of the golden data. */
export function readGolden(name: string): unknown {
  return JSON.parse(readFileSync(join(shared, "fixtures/latent", name), "utf8"));
}

/** Layers of the bundled model, in their order, after a latent conversion. */
export async function convertedLayers(
  backend: Backend,
  windows: Windows,
  recipe: LatentRecipe,
  layers: readonly number[],
): Promise<ConvertedLayer[]> {
  return withSource(bundledModel, async (config, attention, weights) => {
    const complete = completeRecipe(recipe, attention);
    using run = new LatentRun(config, weights, { backend, windows }, async (layer) =>
      convertLayer(layer, complete),
    );
    const converted: ConvertedLayer[] = [];
    for (const layer of layers) converted.push(await run.convert(layer));
    return converted;
  });
}

/** Opens a model in a folder for a conversion. */
export async function withSource<T>(
  path: string,
  body: (config: ModelConfig, attention: GroupedAttention, weights: SourceLayers) => Promise<T>,
): Promise<T> {
  const folder = diskFolder(path);
  const { config } = await readConfig(folder);
  const { attention } = config;
  if (attention.kind !== "grouped") return expect.fail("the model has grouped attention");
  const source = await openCheckpoint(folder);
  const weights = new SourceLayers(config, attention, {
    names: [...source.tensors.keys()],
    has: (name) => source.tensors.has(name),
    read: async (name) => ({
      shape: source.tensors.get(name)!.shape,
      data: await source.numbers(name),
    }),
    pieces: (name) => source.pieces(name),
  });
  try {
    return await body(config, attention, weights);
  } finally {
    await source.close();
  }
}
