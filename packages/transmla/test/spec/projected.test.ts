// The latent format of this library: sizes of its own in every layer, keys that depend on positions alone, an exact first
// position.
import { fc } from "@fast-check/vitest";
import type { Backend } from "@transmla/core";
import { expect } from "vitest";

import type { ProjectedRecipe } from "../../src/convert/latent/projected/recipe.ts";
import { cacheConstant, cacheWidth } from "../../src/model/config/model-config.ts";
import { relativeError, SINGLE } from "./errors.ts";
import {
  converted,
  modelLogits,
  onBackend,
  sourceModel,
  sourceSizes,
  type SourceSize,
  type TinyModel,
} from "./inputs/models.ts";
import { Random } from "./inputs/random.ts";
import { backendProperty } from "./property.ts";

/** Models that the format holds, with biases or norms of heads. */
const sources = fc
  .tuple(sourceSizes, fc.boolean())
  .map(([size, normed]): SourceSize =>
    normed && !size.biased ? { ...size, family: "qwen3" } : size,
  )
  .filter(({ headDim }) => headDim >= 4);

/** Ingredients of the recipe. */
const ingredients = fc.record({
  positions: fc.boolean(),
  exactFirst: fc.boolean(),
  logitRefit: fc.boolean(),
  slots: fc.constantFrom("free" as const, "fast band" as const),
});

/** A conversion for the runtime of this library, calibrated on random tokens. */
async function projected(
  backend: Backend,
  source: TinyModel,
  recipe: ProjectedRecipe,
): Promise<TinyModel> {
  const random = new Random(source.tokens.length);
  const calibration = [random.integers(40, 64), random.integers(30, 64)];
  return converted(source, { method: "latent", target: "own", ...recipe, calibration, backend });
}

/** Other sizes in each layer. */
const unequal = ({ layers }: SourceSize): Pick<ProjectedRecipe, "ropeDim" | "latentRank"> => ({
  ropeDim: Array.from({ length: layers }, (_, layer) => 2 * layer),
  latentRank: Array.from({ length: layers }, (_, layer) => 3 - layer),
});

const singly = (tokens: readonly number[]): number[][] => tokens.map((token) => [token]);

backendProperty(
  {
    id: "P28",
    statement:
      "with a slot for every component of the keys and a latent of full rank, the latent format of this library gives the logits of the source: LLaMA, Mistral, Qwen2 with biases, Qwen3 with norms of heads",
    tolerance: "1e-3 relative, f32",
    runs: 8,
  },
  [sources, ingredients],
  async (backend, size, recipe) => {
    const source = sourceModel(size);
    const full = {
      ropeDim: size.kvHeads * size.headDim,
      latentRank: 2 * size.kvHeads * size.headDim,
    };
    const slots = "free"; // a fast band has one slot for each frequency
    const result = await projected(backend, source, {
      ...recipe,
      ...full,
      slots,
      outputRidge: "none",
    });
    using before = onBackend(backend, source);
    using after = onBackend(backend, result);
    const expected = await modelLogits(before, [source.tokens]);
    expect(relativeError(await modelLogits(after, [source.tokens]), expected)).toBeLessThan(1e-3);
  },
);

backendProperty(
  {
    id: "P6",
    statement:
      "in the latent format of this library, absorbed and expanded attention, token by token or in one pass, give the same logits",
    tolerance: "1e-4 relative, f32",
    runs: 8,
  },
  [sources, ingredients],
  async (backend, size, recipe) => {
    const result = await projected(backend, sourceModel(size), { ...recipe, ...unequal(size) });
    using model = onBackend(backend, result);
    const { tokens } = result;
    const expected = await modelLogits(model, [tokens], { latentForm: "expanded" });
    for (const latentForm of ["absorbed", "expanded"] as const) {
      for (const pieces of [[tokens], singly(tokens), [tokens.slice(0, 3), tokens.slice(3)]]) {
        const logits = await modelLogits(model, pieces, { latentForm });
        expect(relativeError(logits, expected)).toBeLessThan(SINGLE);
      }
    }
  },
);

backendProperty(
  {
    id: "P7",
    statement:
      "the latent format of this library caches r + d_r numbers for each token, of other sizes in each layer, and with an exact first position 2gd numbers for each layer and sequence",
    tolerance: "exact",
    runs: 6,
  },
  [
    sources,
    fc.boolean(),
    fc.integer({ min: 1, max: 40 }),
    fc.constantFrom("f32" as const, "bf16" as const),
  ],
  async (backend, size, exactFirst, capacity, dtype) => {
    const sizes = unequal(size);
    const recipe = { ...sizes, exactFirst, logitRefit: false };
    using model = onBackend(backend, await projected(backend, sourceModel(size), recipe));
    using cache = model.createCache(capacity, dtype);
    const perToken = 3 * size.layers + (size.layers * (size.layers - 1)) / 2;
    const constant = exactFirst ? 2 * size.kvHeads * size.headDim * size.layers : 0;
    expect(cache.bytes).toBe((perToken * capacity + constant) * (dtype === "f32" ? 4 : 2));
    const { attention } = model.config;
    expect(cacheWidth(attention) * size.layers).toBeCloseTo(perToken, 9);
    expect(cacheConstant(attention) * size.layers).toBe(constant);
  },
);
