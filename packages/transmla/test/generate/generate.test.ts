import { cpuBackend } from "@transmla/backend-cpu";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import {
  generate,
  type GenerateOptions,
  type GenerationStatistics,
} from "../../src/generate/generate.ts";
import { loadModel } from "../../src/load.ts";
import { Model } from "../../src/model/model.ts";

const backend = await cpuBackend();
let model: Model;
let loaded = backend.memory();
beforeAll(async () => {
  model = await loadModel(bundledModel, { backend });
  loaded = backend.memory();
});
afterEach(() => expect(backend.memory()).toEqual(loaded));
afterAll(() => model[Symbol.dispose]());

async function run(
  prompt: string | readonly number[],
  options: GenerateOptions,
): Promise<{ ids: number[]; text: string; statistics: GenerationStatistics }> {
  const ids: number[] = [];
  let text = "";
  let statistics: GenerationStatistics | undefined;
  const all = { ...options, onFinish: (measured: GenerationStatistics) => (statistics = measured) };
  for await (const piece of generate(model, prompt, all)) {
    ids.push(piece.id);
    text += piece.text;
  }
  return { ids, text, statistics: statistics! };
}

const decode = (ids: readonly number[]): string => model.assets.tokenizer!.decode(ids);

test("the pieces make the text of the tokens", async () => {
  const { ids, text, statistics } = await run("ROMEO:", {
    maxTokens: 30,
    temperature: 1.5,
    seed: 4,
  });
  expect(ids.length).toBe(30);
  expect(text).toBe(decode(ids));
  expect(statistics).toMatchObject({ reason: "length", tokens: 30 });
});

test("a text prompt is the prompt of its tokens", async () => {
  const ids = model.assets.tokenizer!.encode("JULIET:");
  const options = { maxTokens: 8 };
  expect((await run(ids, options)).ids).toEqual((await run("JULIET:", options)).ids);
});

test("a cache goes on where it was left", async () => {
  const whole = await run("First Citizen:\nWe", { maxTokens: 12 });
  const prompt = model.assets.tokenizer!.encode("First Citizen:\nWe");
  using cache = model.createCache(64);
  const first = await run(prompt.slice(0, -2), { maxTokens: 1, cache });
  expect(first.ids.length).toBe(1);
  expect(cache.length).toBe(prompt.length - 2);
  const rest = await run(prompt.slice(-2), { maxTokens: 12, cache });
  expect(rest.ids).toEqual(whole.ids);
});

test("a stop text ends the generation and is not part of it", async () => {
  const whole = await run("ROMEO:", { maxTokens: 40 });
  const stop = whole.text.slice(9, 13);
  const { text, statistics } = await run("ROMEO:", { maxTokens: 40, stop: [stop] });
  expect(text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
  expect(statistics.reason).toBe("stop");
});

test("an end token ends the generation", async () => {
  const { ids } = await run("ROMEO:", { maxTokens: 6 });
  const ending = new Model(backend, model.huggingFaceConfig, model.tensors, {
    ...model.assets,
    endTokens: [ids[3]!],
  });
  const seen: number[] = [];
  let reason: string | undefined;
  for await (const { id } of generate(ending, "ROMEO:", {
    maxTokens: 6,
    onFinish: (all) => (reason = all.reason),
  })) {
    seen.push(id);
  }
  expect(seen).toEqual(ids.slice(0, ids.indexOf(ids[3]!)));
  expect(reason).toBe("end");
});

describe("stopping early", () => {
  test("leaving the loop frees the cache", async () => {
    for await (const { id } of generate(model, "ROMEO:", { maxTokens: 40 })) {
      expect(id).toBeGreaterThanOrEqual(0);
      break;
    }
  });

  test("an abort throws its reason and frees the cache", async () => {
    const abort = new AbortController();
    const loop = async (): Promise<void> => {
      for await (const _ of generate(model, "ROMEO:", { signal: abort.signal }))
        abort.abort(new Error("enough"));
    };
    await expect(loop()).rejects.toThrow("enough");
  });
});

test("what cannot be generated", async () => {
  await expect(run("", {})).rejects.toThrow(
    "generate: the prompt is empty; it needs at least one token",
  );
  await expect(run([1024], {})).rejects.toThrow("forward: token id 1024 is not from 0 to 1023");
  await expect(run("x", { maxTokens: 0 })).rejects.toThrow(
    "generate: maxTokens 0 must be a positive integer",
  );
});
