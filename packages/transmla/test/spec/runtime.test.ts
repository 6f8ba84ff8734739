// Latent attention as the library runs it: its two forms, its cache, and the bytes of that cache.
import { fc } from "@fast-check/vitest";
import { expect } from "vitest";

import { cacheDTypes } from "../../src/model/cache-size.ts";
import { relativeError, SINGLE } from "./errors.ts";
import { latentSizes } from "./inputs/layers.ts";
import {
  converted,
  latentModel,
  modelLogits,
  onBackend,
  sourceModel,
  sourceSizes,
} from "./inputs/models.ts";
import { backendProperty } from "./property.ts";
import { decoderLogits } from "./reference/decoder.ts";

/** Each token as a piece of its own. */
const singly = (tokens: readonly number[]): number[][] => tokens.map((token) => [token]);

backendProperty(
  {
    id: "P6",
    statement:
      "absorbed and expanded latent attention give the same logits, those of the reference, for any weights",
    tolerance: "1e-4 relative, f32",
  },
  [latentSizes],
  async (backend, size) => {
    const latent = latentModel(size);
    const expected = decoderLogits(latent.tokens, latent.json, latent.tensors);
    using model = onBackend(backend, latent);
    const absorbed = await modelLogits(model, [latent.tokens], { latentForm: "absorbed" });
    const expanded = await modelLogits(model, [latent.tokens], { latentForm: "expanded" });
    expect(relativeError(absorbed, expected)).toBeLessThan(SINGLE);
    expect(relativeError(expanded, expected)).toBeLessThan(SINGLE);
  },
);

backendProperty(
  {
    id: "P6",
    statement:
      "decoding a latent model with the cache, token by token or in pieces, gives the logits of one pass at every position",
    tolerance: "1e-4 relative, f32",
  },
  [latentSizes, fc.constantFrom("absorbed", "expanded"), fc.integer({ min: 1, max: 4 })],
  async (backend, size, latentForm, split) => {
    const latent = latentModel(size);
    const { tokens } = latent;
    using model = onBackend(backend, latent);
    const whole = await modelLogits(model, [tokens], { latentForm });
    const oneByOne = await modelLogits(model, singly(tokens), { latentForm });
    const inPieces = await modelLogits(model, [tokens.slice(0, split), tokens.slice(split)], {
      latentForm,
    });
    expect(relativeError(oneByOne, whole)).toBeLessThan(SINGLE);
    expect(relativeError(inPieces, whole)).toBeLessThan(SINGLE);
  },
);

backendProperty(
  {
    id: "P6",
    statement:
      "decoding a model with grouped-query attention, and its factored and merged forms, gives the logits of one pass at every position",
    tolerance: "1e-4 relative, f32",
  },
  [sourceSizes, fc.integer({ min: 1, max: 4 })],
  async (backend, size, split) => {
    const source = sourceModel(size);
    const { tokens } = source;
    const factored = await converted(source, { method: "factored" });
    const merged = await converted(source, { method: "merged" });
    for (const form of [source, factored, merged]) {
      using model = onBackend(backend, form);
      const whole = await modelLogits(model, [tokens]);
      const oneByOne = await modelLogits(model, singly(tokens));
      const inPieces = await modelLogits(model, [tokens.slice(0, split), tokens.slice(split)]);
      expect(relativeError(oneByOne, whole)).toBeLessThan(SINGLE);
      expect(relativeError(inPieces, whole)).toBeLessThan(SINGLE);
    }
  },
);

backendProperty(
  {
    id: "P7",
    statement:
      "a cache of T positions takes (r + d_r) L T numbers of its dtype, in whole blocks for q8, and the rotation tables, and grows no more when tokens pass",
    tolerance: "exact",
  },
  [latentSizes, fc.constantFrom(...cacheDTypes)],
  async (backend, size, dtype) => {
    const latent = latentModel(size);
    const { latentRank: r, ropeDim: dr, layers: L, tokens: T } = size;
    using model = onBackend(backend, latent);
    const before = backend.memory().bytes;
    using cache = model.createCache(T, dtype);
    const after = backend.memory().bytes;

    const bytes = { f32: 4 * (r + dr), f16: 2 * (r + dr), bf16: 2 * (r + dr) };
    const blocks = 36 * Math.ceil((r + dr) / 32);
    expect(cache.bytes).toBe((dtype === "q8" ? blocks : bytes[dtype]) * L * T);
    const tables = T * dr * 4; // cosines and sines of d_r / 2 pairs, f32
    expect(after - before).toBe(cache.bytes + tables);

    model.forward(latent.tokens, cache).dispose();
    expect(cache.length).toBe(T);
    expect(backend.memory().bytes).toBe(after);
  },
);
