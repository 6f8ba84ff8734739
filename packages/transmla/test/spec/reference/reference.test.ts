// The reference of the specification is checked against logits of Hugging Face Transformers.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { diskFolder } from "../../../src/checkpoint/disk.ts";
import { openSafetensors } from "../../../src/checkpoint/safetensors.ts";
import type { HostTensor } from "../../../src/convert/host-tensor.ts";
import type { HuggingFaceConfig } from "../../../src/model/config/model-config.ts";
import { hasShared, shared } from "../../shared.ts";
import { decoderLogits } from "./decoder.ts";

const models = [
  "llama-gqa",
  "llama-mqa",
  "llama-tied",
  "llama-bias",
  "llama-rope-linear",
  "llama-rope-llama3",
  "qwen2",
  "mixtral",
  "deepseek3-dense",
  "deepseek3-dense-bias",
  "deepseek3-dense-halfrope",
  "deepseek3-dense-qlora",
  "deepseek3-latent-eps",
  "deepseek3-longrope",
  "deepseek3-yarn",
];

describe.skipIf(!hasShared("fixtures/models"))(
  "the reference gives the logits of Transformers",
  () => {
    test.each(models)("%s", async (name) => {
      const folder = diskFolder(join(shared, "fixtures/models", name));
      const readJson = (file: string): HuggingFaceConfig =>
        JSON.parse(readFileSync(join(folder.path, file), "utf8")) as HuggingFaceConfig;
      const readTensors = async (file: string): Promise<Map<string, HostTensor>> => {
        const source = await openSafetensors(await folder.open(file));
        const tensors = new Map<string, HostTensor>();
        for (const { name, shape } of source.tensors.values()) {
          tensors.set(name, { shape, data: await source.numbers(name) });
        }
        await source.close();
        return tensors;
      };
      const tokens = readJson("golden.json")["input_ids"] as number[];
      const expected = (await readTensors("golden.safetensors")).get("logits")!.data;

      const logits = decoderLogits(
        tokens,
        readJson("config.json"),
        await readTensors("model.safetensors"),
      );

      const differences = logits.flat().map((logit, i) => Math.abs(logit - expected[i]!));
      expect(differences.length).toBe(expected.length);
      expect(Math.max(...differences)).toBeLessThan(1e-4); // the expected values were computed in f32
    });
  },
);
