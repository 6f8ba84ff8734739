// What conversions do to the predictions of the bundled model, on text that no conversion has seen.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import type { Backend } from "@transmla/core";
import { expect } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import { convert } from "../../src/convert/convert.ts";
import type { HostTensor } from "../../src/convert/host-tensor.ts";
import { compare, cutWindows } from "../../src/evaluate/evaluate.ts";
import { loadModel } from "../../src/load.ts";
import type { Model } from "../../src/model/model.ts";
import { cpuBackends } from "../backends.ts";
import { converted, onBackend, type TinyModel } from "./inputs/models.ts";
import { backendProperty, property } from "./property.ts";

/** The bundled model and tokens of its sample text: 192 in two windows unless said otherwise. */
async function bundled(
  backend: Backend,
  length = 96,
  count = 2,
): Promise<{ readonly model: Model; readonly windows: number[][] }> {
  const model = await loadModel(bundledModel, { backend });
  const text = readFileSync(join(bundledModel, "sample.txt"), "utf8").slice(0, 8000);
  return { model, windows: cutWindows(model.assets.tokenizer!.encode(text), length, count) };
}

backendProperty(
  {
    id: "P45",
    statement:
      "the factored and the merged conversion of the bundled model leave its predictions as they are: KL(original, converted) = 0",
    tolerance: "-1e-9 to 1e-6 nats on average, f32",
  },
  [],
  async (backend) => {
    const { model, windows } = await bundled(backend);
    using original = model;
    using identity = await convert(original, { method: "factored", init: "identity" });
    using svd = await convert(original, { method: "factored", init: "svd" });
    using merged = await convert(original, { method: "merged" });
    for (const { meanKl, topAgreement } of await compare(
      original,
      [identity, svd, merged],
      windows,
    )) {
      expect(meanKl).toBeGreaterThanOrEqual(-1e-9);
      expect(meanKl).toBeLessThanOrEqual(1e-6);
      expect(topAgreement).toBeGreaterThan(0.99);
    }
  },
);

/** The first `rank` singular directions of a factored model. */
function truncated({ json, tensors, tokens }: TinyModel, rank: number): TinyModel {
  const cut = ([name, tensor]: readonly [string, HostTensor]): readonly [string, HostTensor] => {
    const [rows, cols] = tensor.shape as [number, number];
    if (/\.[kv]_a_proj\.weight$/.test(name)) {
      return [name, { shape: [rank, cols], data: tensor.data.slice(0, rank * cols) }];
    }
    if (/\.[kv]_b_proj\.weight$/.test(name)) {
      return [name, { shape: [rows, rank], data: tensor.data.filter((_, i) => i % cols < rank) }];
    }
    return [name, tensor];
  };
  const own = json["transmla"] as object;
  return {
    json: { ...json, transmla: { ...own, key_rank: rank, value_rank: rank } },
    tensors: new Map([...tensors].map(cut)),
    tokens,
  };
}

backendProperty(
  {
    id: "P45",
    statement:
      "KL(original, converted) falls as the rank of a truncated factored model grows, to 0 at full rank",
    tolerance: "mean over positions; at full rank -1e-9 to 1e-6 nats, f32",
  },
  [],
  async (backend) => {
    const { model, windows } = await bundled(backend);
    using original = model;
    const tensors = new Map<string, HostTensor>();
    for (const [name, weight] of original.tensors) {
      tensors.set(name, { shape: weight.shape, data: Float64Array.from(await weight.read()) });
    }
    const source = { json: original.huggingFaceConfig, tensors, tokens: [] };
    const factored = await converted(source, { method: "factored", init: "svd" });

    using rank32 = onBackend(backend, truncated(factored, 32));
    using rank64 = onBackend(backend, truncated(factored, 64));
    using rank96 = onBackend(backend, truncated(factored, 96));
    using full = onBackend(backend, truncated(factored, 128));
    const compared = await compare(original, [rank32, rank64, rank96, full], windows);
    const divergences = compared.map(({ meanKl }) => meanKl);
    expect(divergences).toEqual(divergences.toSorted((a, b) => b - a));
    expect(new Set(divergences).size).toBe(4);
    expect(divergences[3]).toBeGreaterThanOrEqual(-1e-9);
    expect(divergences[3]).toBeLessThanOrEqual(1e-6);
  },
);

property(
  {
    id: "P45",
    statement:
      "KL(original, converted) of latent conversions falls as the rank of their latent grows, on text that they were not calibrated on",
    tolerance: "mean over positions, f32",
  },
  [],
  async () => {
    const [, backend] = cpuBackends[0]!;
    const { model, windows } = await bundled(backend, 96, 4);
    using original = model;
    const [test, ...calibration] = windows;
    const divergences: number[] = [];
    for (const latentRank of [8, 24, 72]) {
      // In closed form: on so few windows the refit of logits fits noise.
      const options = { method: "latent", ropeDim: 24, latentRank, logitRefit: false } as const;
      using latent = await convert(original, { ...options, calibration });
      const [comparison] = await compare(original, [latent], [test!]);
      divergences.push(comparison!.meanKl);
    }
    expect(divergences).toEqual(divergences.toSorted((a, b) => b - a));
    expect(divergences[2]).toBeGreaterThan(0);
  },
);
