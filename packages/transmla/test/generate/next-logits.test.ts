import { cpuBackend } from "@transmla/backend-cpu";
import { afterAll, expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import { nextLogits } from "../../src/generate/next-logits.ts";
import { createSampler, decidingLogits } from "../../src/generate/sampling.ts";
import { loadModel } from "../../src/load.ts";

const backend = await cpuBackend();
const model = await loadModel(bundledModel, { backend });
afterAll(() => model[Symbol.dispose]());

const prompt = model.assets.tokenizer!.encode("ROMEO:\nO");

test.each([
  [{}, 1],
  [{ topK: 7, temperature: 1.5, seed: 3 }, 7],
  [{ topK: 40, topP: 0.9, minP: 0.01, temperature: 2, seed: 4 }, 40],
])("the largest logits choose the token that all of them choose: %o", async (options, count) => {
  expect(decidingLogits(options)).toBe(count);
  const before = backend.memory();
  const [all, some] = [createSampler(options), createSampler(options)];
  for (let i = 1; i <= prompt.length; i++) {
    using cache = model.createCache(16);
    using other = model.createCache(16);
    const tokens = prompt.slice(0, i);
    const whole = await nextLogits(model, tokens, cache, undefined);
    const { logits, ids } = await nextLogits(model, tokens, other, count);
    expect([whole.logits.length, logits.length]).toEqual([model.config.vocabSize, count]);
    expect(ids![some(logits, [])]).toBe(all(whole.logits, []));
  }
  expect(backend.memory()).toEqual(before);
});

test("all logits matter where probabilities are added up or earlier tokens count", () => {
  for (const options of [
    { temperature: 1 },
    { topP: 0.9 },
    { minP: 0.1 },
    { topK: 0 },
    { repetitionPenalty: 1.1 },
    { topK: 5, repetitionPenalty: 1.1 },
  ])
    expect(decidingLogits(options)).toBeUndefined();
});

test("logits that are not numbers are named as such", async () => {
  using cache = model.createCache(16);
  const broken = Object.create(model, {
    forward: {
      value: (...call: Parameters<typeof model.forward>) => {
        const logits = model.forward(...call);
        backend.write(
          logits.buffer as never,
          new Uint8Array(Float32Array.of(0, Number.NaN).buffer),
        );
        return logits;
      },
    },
  }) as typeof model;
  const { logits, ids } = await nextLogits(broken, prompt, cache, 1);
  expect(ids).toBeUndefined();
  expect(() => createSampler({})(logits, [])).toThrow("the logit of token 1 is NaN");
});
