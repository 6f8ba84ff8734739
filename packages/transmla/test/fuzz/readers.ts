// What a program does with a folder of unknown origin, by the parts of the library that read it.
import { cpuBackend } from "@transmla/backend-cpu";
import { TransmlaError } from "@transmla/core";
import { expect } from "vitest";

import { readAssets } from "../../src/assets.ts";
import { bytesPerStored } from "../../src/checkpoint/elements.ts";
import type { Folder } from "../../src/checkpoint/folder.ts";
import { openCheckpoint } from "../../src/checkpoint/shards.ts";
import { elementCount } from "../../src/checkpoint/tensors.ts";
import { ggufFolder } from "../../src/gguf/folder.ts";
import { loadModel, readConfig } from "../../src/load.ts";
import type { HuggingFaceConfig } from "../../src/model/config/model-config.ts";
import { createTextStream } from "../../src/text/stream.ts";

const backend = await cpuBackend();

/** Reads every tensor of a checkpoint. */
export async function readTensors(folder: Folder): Promise<void> {
  const source = await openCheckpoint(folder);
  try {
    for (const [name, { shape, dtype }] of source.tensors) {
      const values = await source.numbers(name);
      expect(values.length).toBe(elementCount(shape));
      const bytes = await source.bytes(name);
      expect(bytes.length).toBe(values.length * bytesPerStored(dtype));
    }
  } finally {
    await source.close();
  }
}

const texts = ["", "Hello world", "  a\n\nb 12 été 日本 👍\u0000<s></s>", "\ud800"];

const chat = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Hello <s>" },
  { role: "assistant", content: "Hello." },
  { role: "user", content: "Bye" },
];

/** Reads tokenizer, template and defaults, and uses them. */
export async function readTexts(folder: Folder, config: HuggingFaceConfig = {}): Promise<void> {
  const { tokenizer, chatTemplate, endTokens, sampling } = await readAssets(folder, config);
  expect(endTokens.every((id) => Number.isInteger(id) && id >= 0)).toBe(true);
  expect(Object.values(sampling).every((x) => Number.isFinite(x) && Number(x) > 0)).toBe(true);
  const errors: unknown[] = [];
  const attempt = (body: () => void): void => {
    try {
      body();
    } catch (error) {
      errors.push(error);
    }
  };
  if (tokenizer) {
    for (const text of texts) {
      attempt(() => {
        const ids = tokenizer.encode(text);
        expect(ids.every((id) => Number.isInteger(id) && id >= 0)).toBe(true);
        expect(Math.max(-1, ...ids)).toBeLessThan(tokenizer.vocabSize);
        expect(typeof tokenizer.decode(ids, { skipSpecialTokens: true })).toBe("string");
      });
    }
    attempt(() => {
      const stream = createTextStream(tokenizer);
      for (let id = 0; id < 20; id++) expect(typeof stream.push(id)).toBe("string");
      expect(typeof stream.end()).toBe("string");
    });
  }
  attempt(() => {
    const rendered = chatTemplate?.render(chat, { addGenerationPrompt: true });
    expect(typeof (rendered ?? "")).toBe("string");
  });
  // A defect must not hide behind a refusal.
  const error = errors.find((thrown) => !(thrown instanceof TransmlaError)) ?? errors[0];
  if (error !== undefined) throw error;
}

/** Reads a configuration; whatever comes out can be computed with. */
export async function readConfiguration(folder: Folder): Promise<void> {
  const { config } = await readConfig(folder);
  const seen = new Set<unknown>();
  const check = (value: unknown): void => {
    if (typeof value === "number") expect(Number.isFinite(value)).toBe(true);
    if (typeof value !== "object" || value === null || seen.has(value)) return;
    seen.add(value); // layers share what is the same
    for (const inner of Object.values(value)) check(inner);
  };
  check(config);
}

/** Loads a model and takes three steps. */
export async function runModel(folder: Folder): Promise<void> {
  using model = await loadModel(folder, { backend });
  using cache = model.createCache(8);
  using first = model.forward([0, 1], cache);
  using second = model.forward([1], cache);
  for (const { shape } of [first, second]) expect(shape).toEqual([1, model.config.vocabSize]);
}

/** Reads all of a GGUF file. */
export async function readGgufFile(folder: Folder): Promise<void> {
  const model = await ggufFolder(folder, "x.gguf");
  const { json } = await readConfig(model);
  await readTexts(model, json);
  await readTensors(model);
}
