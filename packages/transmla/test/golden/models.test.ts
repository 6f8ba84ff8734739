// Logits, hidden states and greedy tokens of Hugging Face Transformers for tiny random models of each family.
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { keep, type Tensor } from "@transmla/core";
import { afterEach, describe, expect, test } from "vitest";

import { diskFolder } from "../../src/checkpoint/disk.ts";
import type { Folder } from "../../src/checkpoint/folder.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { generate } from "../../src/generate/generate.ts";
import { loadModel } from "../../src/load.ts";
import { cpuBackends } from "../backends.ts";
import { hasShared, shared } from "../shared.ts";

/** f32 against the f32 of another library: the README of the golden data measures 2.5e-5 against f64. */
const TOLERANCE = 1e-4;

const models = [
  "llama-gqa",
  "llama-gqa-bf16",
  "llama-gqa-fp16",
  "llama-gqa-sharded",
  "llama-mqa",
  "llama-mha",
  "llama-tied",
  "llama-bias",
  "llama-rope-linear",
  "llama-rope-llama3",
  "llama-rope-yarn",
  "llama-rope-dynamic",
  "mistral-sliding",
  "mixtral",
  "qwen2",
  "qwen2-tied",
  "qwen2-sliding",
  "qwen3",
  "qwen3-tied",
  "qwen3-moe",
  "gemma2",
  "gemma3-text",
  "phi3",
  "phi3-sliding",
  "phi3-longrope",
  "phi3-longrope-partial",
  "smollm3",
  "deepseek2-dense",
  "deepseek2-moe",
  "deepseek2-qlora-moe-groups",
  "deepseek3-dense",
  "deepseek3-dense-bias",
  "deepseek3-dense-halfrope",
  "deepseek3-dense-qlora",
  "deepseek3-dense-tied",
  "deepseek3-latent-eps",
  "deepseek3-longrope",
  "deepseek3-yarn",
  "deepseek3-moe",
  "youtu",
];

/** Transformers 5.23 sets the embedding of the padding token to zero when it loads these, so its logit is 0 there. */
const clearsPadding: Readonly<Record<string, number>> = { youtu: 0 };

interface Golden {
  readonly input_ids: readonly number[];
  readonly greedy_tokens: readonly number[];
}

/** The folder with another file in the place of `config.json`. */
function withConfig(folder: Folder, config: string): Folder {
  const actual = (name: string): string => (name === "config.json" ? config : name);
  return {
    path: folder.path,
    exists: (name) => folder.exists(actual(name)),
    open: (name) => folder.open(actual(name)),
  };
}

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!);
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

interface BundledGolden {
  readonly prompts: readonly {
    readonly ids: readonly number[];
    readonly last_logits: readonly number[];
    readonly greedy_40_ids: readonly number[];
  }[];
}

describe.each(cpuBackends)("%s", (_, backend) => {
  afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

  describe.skipIf(!hasShared("fixtures/models"))("golden values of Transformers", () => {
    describe.each(models)("%s", (name) => {
      const path = join(shared, "fixtures/models", name);
      test.each(["config.json", "config.legacy.json"])("%s", async (config) => {
        const folder = diskFolder(path);
        const golden = JSON.parse(readFileSync(join(path, "golden.json"), "utf8")) as Golden;
        const expected = await openSafetensors(await folder.open("golden.safetensors"));
        using model = await loadModel(withConfig(folder, config), { backend });

        const hidden: Tensor[] = [];
        const ids = golden.input_ids;
        {
          using cache = model.createCache(ids.length);
          using logits = model.forward(ids, cache, {
            logits: "all",
            onHidden: (_layer, x) => hidden.push(keep(x.slice(0, 0, ids.length))),
          });
          const vocab = model.config.vocabSize;
          const found = (await logits.read()).map((x, i) =>
            i % vocab === clearsPadding[name] ? 0 : x,
          );
          expect(largestDifference(found, await expected.numbers("logits"))).toBeLessThan(
            TOLERANCE,
          );
        }
        for (const [layer, x] of hidden.entries()) {
          const values = await x.read();
          x.dispose();
          expect(largestDifference(values, await expected.numbers(`hidden.${layer}`))).toBeLessThan(
            TOLERANCE,
          );
        }

        const greedy: number[] = [];
        using cache = model.createCache(ids.length + golden.greedy_tokens.length);
        const options = { maxTokens: golden.greedy_tokens.length, ignoreEnd: true, cache };
        for await (const { id } of generate(model, ids, options)) greedy.push(id);
        expect(greedy).toEqual(golden.greedy_tokens);
        await expected.close();
      });
    });
  });

  test("the bundled model has the logits and the greedy text of Transformers", async () => {
    const path = join(import.meta.dirname, "../../models/tiny-shakespeare");
    const golden = JSON.parse(await readFile(join(path, "golden.json"), "utf8")) as BundledGolden;
    using model = await loadModel(path, { backend });
    for (const prompt of golden.prompts) {
      using cache = model.createCache(64);
      using logits = model.forward(prompt.ids, cache);
      expect(largestDifference(await logits.read(), prompt.last_logits)).toBeLessThan(TOLERANCE);
      const greedy: number[] = [];
      for await (const { id } of generate(model, prompt.ids, { maxTokens: 40, ignoreEnd: true }))
        greedy.push(id);
      expect(greedy).toEqual(prompt.greedy_40_ids);
    }
  });
});
