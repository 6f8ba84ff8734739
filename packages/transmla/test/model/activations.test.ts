// Activations in f16 against those in f32: the same models, within the rounding of what layers pass on.
import type { Backend } from "@transmla/core";
import { afterEach, describe, expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import { convert } from "../../src/convert/convert.ts";
import { generate } from "../../src/generate/generate.ts";
import { loadModel } from "../../src/load.ts";
import type { Model } from "../../src/model/model.ts";
import type { ActivationDType } from "../../src/model/transformer.ts";
import { cpuBackends } from "../backends.ts";
import { HALF, HALF_RANDOM, relativeError } from "../spec/errors.ts";
import {
  converted,
  latentModel,
  modelLogits,
  onBackend,
  sourceModel,
  type SourceSize,
  type TinyModel,
} from "../spec/inputs/models.ts";
import { Random } from "../spec/inputs/random.ts";

const PROMPT = "ROMEO:\nBut soft, what";

/** The bundled model, or a conversion of it, which keeps the activations. */
async function bundled(
  backend: Backend,
  form: "original" | "factored" | "merged",
  activations: ActivationDType,
): Promise<Model> {
  const original = await loadModel(bundledModel, { backend, activations });
  if (form === "original") return original;
  using source = original;
  return await convert(source, { method: form });
}

async function greedy(model: Model): Promise<string> {
  let text = "";
  for await (const piece of generate(model, PROMPT, { maxTokens: 24, temperature: 0 }))
    text += piece.text;
  return text;
}

const size: SourceSize = {
  family: "llama",
  layers: 2,
  hidden: 32,
  heads: 4,
  kvHeads: 2,
  headDim: 8,
  biased: false,
  tied: false,
  eps: 1e-5,
  rope: { rope_type: "default", rope_theta: 10_000 },
  tokens: 12,
  seed: 1,
};

const random: Readonly<Record<string, TinyModel>> = {
  biases: sourceModel({ ...size, biased: true }),
  "norms of heads": sourceModel({ ...size, family: "qwen3" }),
  experts: sourceModel({ ...size, family: "mixtral" }),
  "latents of queries": latentModel({
    ...size,
    nopeDim: 8,
    ropeDim: 4,
    valueDim: 8,
    latentRank: 16,
    queryRank: 24,
    biased: true,
  }),
  "the format of this library": await converted(sourceModel({ ...size, biased: true }), {
    method: "latent",
    target: "own",
    ropeDim: 4,
    latentRank: 12,
    backend: cpuBackends[0]![1],
    calibration: [new Random(2).integers(60, 64)],
  }),
};

describe.each(cpuBackends)("%s", (_, backend) => {
  afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

  test.each(["original", "factored", "merged"] as const)(
    "the bundled model, %s: nearly the logits of f32, at once and token by token, and its greedy text",
    async (form) => {
      using single = await bundled(backend, form, "f32");
      using half = await bundled(backend, form, "f16");
      expect([single.activations, half.activations]).toEqual(["f32", "f16"]);
      const ids = single.assets.tokenizer!.encode(PROMPT);
      const expected = await modelLogits(single, [ids]);
      const steps = ids.map((id) => [id]);
      for (const pieces of [[ids], steps]) {
        for (const latentForm of ["absorbed", "expanded"] as const) {
          const error = relativeError(await modelLogits(half, pieces, { latentForm }), expected);
          expect(error).toBeGreaterThan(0);
          expect(error).toBeLessThan(HALF);
        }
      }
      expect(await greedy(half)).toBe(await greedy(single));
    },
  );

  test.each(Object.entries(random))(
    "random weights, %s: nearly the logits of f32; logits stay f32",
    async (_, model) => {
      using single = onBackend(backend, model);
      using half = onBackend(backend, model, "f16");
      const expected = await modelLogits(single, [model.tokens]);
      const error = relativeError(await modelLogits(half, [model.tokens]), expected);
      expect(error).toBeGreaterThan(0);
      expect(error).toBeLessThan(HALF_RANDOM);
      using cache = half.createCache(4);
      using logits = half.forward([1, 2], cache, {
        onHidden: (_layer, hidden) => expect(hidden.dtype).toBe("f16"),
      });
      expect(logits.dtype).toBe("f32");
    },
  );

  test("what f16 cannot hold is not generated from", async () => {
    const { tokens, ...model } = sourceModel(size);
    const embeddings = model.tensors.get("model.embed_tokens.weight")!;
    embeddings.data.forEach((value, i) => (embeddings.data[i] = 1e8 * value));
    const count = async (activations: ActivationDType): Promise<number> => {
      using loaded = onBackend(backend, { ...model, tokens }, activations);
      let pieces = 0;
      for await (const _ of generate(loaded, tokens, { maxTokens: 2 })) pieces++;
      return pieces;
    };
    expect(await count("f32")).toBe(2);
    await expect(count("f16")).rejects.toThrow("the logit of token 0 is NaN");
  });
});
