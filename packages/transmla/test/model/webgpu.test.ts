import { cpuBackend } from "@transmla/backend-cpu";
import { webgpuBackend, type WebGpuBackend } from "@transmla/backend-webgpu";
import type { Backend } from "@transmla/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { hasAdapter } from "../../../../test/adapter.ts";
import { bundledModel } from "../../src/bundled.ts";
import { convert } from "../../src/convert/convert.ts";
import { generate } from "../../src/generate/generate.ts";
import { loadModel } from "../../src/load.ts";
import { Model } from "../../src/model/model.ts";
import type { ActivationDType } from "../../src/model/transformer.ts";
import { HALF, relativeError, SINGLE } from "../spec/errors.ts";

const TEXT = "ROMEO:\nBut soft, what";

/** A software adapter on a busy machine is slow. */
const TIMEOUT = 300_000;

/** The bundled model, or a conversion of it. */
async function make(
  backend: Backend,
  method: "original" | "factored" | "merged",
  activations?: ActivationDType,
): Promise<Model> {
  const original = await loadModel(bundledModel, { backend, activations });
  if (method === "original") return original;
  using source = original;
  return await convert(source, { method });
}

async function continued(
  model: Model,
  prompt: string | number[],
  maxTokens: number,
): Promise<number[]> {
  const ids: number[] = [];
  for await (const { id } of generate(model, prompt, { maxTokens, ignoreEnd: true })) ids.push(id);
  return ids;
}

async function logitsOf(model: Model): Promise<Float32Array> {
  using cache = model.createCache(64);
  using logits = model.forward(model.assets.tokenizer!.encode(TEXT), cache, { logits: "all" });
  return logits.read();
}

describe.skipIf(!hasAdapter)("the bundled model on WebGPU", () => {
  let cpu: Backend;
  let direct: WebGpuBackend;
  let cooperative: WebGpuBackend;
  beforeAll(async () => {
    cpu = await cpuBackend();
    direct = await webgpuBackend({ workgroupMemory: false });
    cooperative = await webgpuBackend({ workgroupMemory: true });
  });
  afterAll(() => {
    for (const backend of [cpu, direct, cooperative]) {
      expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
      backend.dispose();
    }
  });

  test.each(["original", "factored", "merged"] as const)(
    "%s: the logits and the greedy text of the CPU",
    async (method) => {
      using expected = await make(cpu, method);
      using actual = await make(direct, method);
      expect(relativeError(await logitsOf(actual), await logitsOf(expected))).toBeLessThan(SINGLE);
      expect(await continued(actual, TEXT, 12)).toEqual(await continued(expected, TEXT, 12));
    },
    TIMEOUT,
  );

  test.each(["original", "merged"] as const)(
    "%s with f16 activations: nearly the logits, and the greedy text, of f32 on the CPU",
    async (method) => {
      using expected = await make(cpu, method);
      for (const backend of [direct, cooperative]) {
        using actual = await make(backend, method, "f16");
        expect(relativeError(await logitsOf(actual), await logitsOf(expected))).toBeLessThan(HALF);
        expect(await continued(actual, TEXT, 3)).toEqual(await continued(expected, TEXT, 3));
      }
    },
    TIMEOUT,
  );

  test(
    "the kernels for GPUs give the same; a token is one submission, 8 bytes read and no new bind group",
    async () => {
      using expected = await make(cpu, "merged");
      using actual = await make(cooperative, "merged");
      expect(relativeError(await logitsOf(actual), await logitsOf(expected))).toBeLessThan(SINGLE);
      const ids: number[] = [];
      const counts: ReturnType<typeof cooperative.counts>[] = [];
      for await (const { id } of generate(actual, TEXT, { maxTokens: 4 })) {
        ids.push(id);
        counts.push(cooperative.counts());
      }
      expect(ids).toEqual(await continued(expected, TEXT, 4));
      const [third, fourth] = [counts[2]!, counts[3]!];
      expect(fourth.submits - third.submits).toBe(1);
      expect(fourth.bytesRead - third.bytesRead).toBe(8);
      expect(fourth).toMatchObject({ bindGroups: third.bindGroups, peakBytes: third.peakBytes });
    },
    TIMEOUT,
  );

  test(
    "memory does not grow over 500 tokens",
    async () => {
      using model = await firstLayer(direct);
      const seen: object[] = [];
      const peaks: number[] = [];
      let tokens = 0;
      for await (const _ of generate(model, [1, 2], { maxTokens: 502, ignoreEnd: true })) {
        if (++tokens % 100 !== 2) continue;
        const { liveBytes, peakBytes } = direct.counts();
        seen.push({ liveBytes, ...direct.memory() });
        peaks.push(peakBytes);
      }
      expect(seen).toHaveLength(6);
      for (const counts of seen) expect(counts).toEqual(seen[0]);
      // Where attention is composed, the pool keeps a few buffers of each size that the scores have passed through.
      expect(peaks.at(-1)! - peaks[0]!).toBeLessThan(2 ** 20);
    },
    TIMEOUT,
  );
});

/** The first layer of the bundled model, between its embeddings and its head. */
async function firstLayer(backend: Backend): Promise<Model> {
  using whole = await make(backend, "original");
  const tensors = [...whole.tensors]
    .filter(([name]) => !/layers\.(?!0\.)/.test(name))
    .map(([name, weight]) => [name, weight.slice(0, 0, weight.shape[0]!)] as const);
  const config = { ...whole.huggingFaceConfig, num_hidden_layers: 1 };
  return new Model(backend, config, new Map(tensors), whole.assets);
}
