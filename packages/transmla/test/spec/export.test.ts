// The merged conversion as a whole: its checkpoint, run by code that knows nothing of it, gives the logits of the source.
import { fc } from "@fast-check/vitest";
import { expect } from "vitest";

import { relativeError, SINGLE } from "./errors.ts";
import { converted, modelLogits, onBackend, sourceModel, sourceSizes } from "./inputs/models.ts";
import { backendProperty, property } from "./property.ts";
import { decoderLogits } from "./reference/decoder.ts";

property(
  {
    id: "P39",
    statement:
      "DeepSeek-V3 with live norms, on the tensors and the config of a merged LLaMA, Mistral or Qwen2, gives the logits of the source",
    tolerance: "1e-8 relative, f64: the norms of P38 cost s² ms(z) / 2 eps = 1.1e-10 ms(z) each",
    runs: 30,
  },
  [sourceSizes],
  async (size) => {
    const source = sourceModel(size);
    const merged = await converted(source, { method: "merged" });
    const expected = decoderLogits(source.tokens, source.json, source.tensors);
    const error = relativeError(
      decoderLogits(merged.tokens, merged.json, merged.tensors),
      expected,
    );
    expect(error).toBeLessThan(1e-8);
  },
);

backendProperty(
  {
    id: "P39",
    statement:
      "the same checkpoint in the runtime of this library, absorbed and expanded, gives the logits of the source",
    tolerance: "1e-4 relative, f32",
  },
  [sourceSizes],
  async (backend, size) => {
    const source = sourceModel(size);
    const expected = decoderLogits(source.tokens, source.json, source.tensors);
    using model = onBackend(backend, await converted(source, { method: "merged" }));
    for (const latentForm of ["absorbed", "expanded"] as const) {
      const logits = await modelLogits(model, [source.tokens], { latentForm });
      expect(relativeError(logits, expected)).toBeLessThan(SINGLE);
    }
  },
);

backendProperty(
  {
    id: "P42",
    statement:
      "merged for the runtime of this library, which normalises each head inside the merged key, a model with norms of heads gives the logits of the source, and so does one with experts",
    tolerance: "1e-4 relative, f32",
  },
  [sourceSizes, fc.constantFrom("qwen3" as const, "mixtral" as const)],
  async (backend, size, family) => {
    const source = sourceModel({ ...size, family, eps: 1e-6 });
    const expected = decoderLogits(source.tokens, source.json, source.tensors);
    const merged = await converted(source, { method: "merged", target: "own" });
    using model = onBackend(backend, merged);
    for (const latentForm of ["absorbed", "expanded"] as const) {
      const logits = await modelLogits(model, [source.tokens], { latentForm });
      expect(relativeError(logits, expected)).toBeLessThan(SINGLE);
    }
  },
);

backendProperty(
  {
    id: "P39",
    statement:
      "DeepSeek-V3 with live norms, on the tensors and the config of a calibrated conversion of either recipe, gives the logits that the runtime of this library gives, absorbed and expanded",
    tolerance: "1e-4 relative, f32",
  },
  [sourceSizes, fc.constantFrom("default" as const, "transmla" as const)],
  async (backend, size, recipe) => {
    const plain = { family: "llama" as const, biased: false };
    const source = sourceModel({
      ...size,
      ...plain,
      rope: { rope_type: "default", rope_theta: 10_000 },
    });
    const result = await converted(source, {
      method: "latent",
      recipe,
      ropeDim: size.headDim,
      latentRank: Math.max(size.headDim / 2, 1),
      calibration: [source.tokens, source.tokens.toReversed()],
      backend,
    });
    const expected = decoderLogits(result.tokens, result.json, result.tensors);
    using model = onBackend(backend, result);
    for (const latentForm of ["absorbed", "expanded"] as const) {
      const logits = await modelLogits(model, [source.tokens], { latentForm });
      expect(relativeError(logits, expected)).toBeLessThan(SINGLE);
    }
  },
);

property(
  {
    id: "P39",
    statement:
      "merged for llama.cpp, a LLaMA with one kv head keeps its rotary embedding, and DeepSeek-V3 with live norms gives the logits of the source",
    tolerance: "1e-8 relative, f64",
  },
  [
    sourceSizes.filter(
      ({ kvHeads, biased, rope }) => kvHeads === 1 && !biased && rope.rope_type === "default",
    ),
  ],
  async (size) => {
    const source = sourceModel({ ...size, family: "llama" });
    const merged = await converted(source, { method: "merged", target: "llama.cpp" });
    expect(merged.json["rope_parameters"]).toEqual({ rope_theta: 10_000, rope_type: "default" });
    const error = relativeError(
      decoderLogits(merged.tokens, merged.json, merged.tensors),
      decoderLogits(source.tokens, source.json, source.tensors),
    );
    expect(error).toBeLessThan(1e-8);
  },
);
