// Every conversion of every family: equal logits, or a refusal that says why.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { afterEach, describe, expect, test } from "vitest";

import { convert } from "../../src/convert/convert.ts";
import { compare } from "../../src/evaluate/evaluate.ts";
import { loadModel } from "../../src/load.ts";
import { hasShared, shared } from "../shared.ts";

/** What DeepSeek-V3 lacks for the merged form of each model; `undefined` where it holds it exactly. */
const models: Readonly<Record<string, string | undefined>> = {
  "llama-gqa": undefined,
  "llama-mqa": undefined,
  "llama-mha": undefined,
  "llama-tied": undefined,
  "llama-rope-linear": undefined,
  "llama-rope-llama3": undefined,
  "llama-rope-yarn": undefined,
  "llama-rope-dynamic": "frequencies that depend on the length of the sequence",
  "llama-bias": "feed-forward bias",
  "mistral-sliding": "sliding window",
  mixtral: "experts that are routed as in mixtral",
  qwen2: undefined,
  "qwen2-tied": undefined,
  "qwen2-sliding": "sliding window",
  qwen3: "norm of queries and keys",
  "qwen3-moe": "norm of queries and keys",
  gemma2: "sliding window",
  "gemma3-text": "sliding window",
  phi3: undefined,
  "phi3-sliding": "sliding window",
  "phi3-longrope": "frequencies that depend on the length of the sequence",
  "phi3-longrope-partial": "frequencies that depend on the length of the sequence",
  smollm3: "layers with other positions, or none",
};

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

describe.skipIf(!hasShared("fixtures/models"))("conversions of", () => {
  test.each(Object.entries(models))("%s", async (name, missing) => {
    const path = join(shared, "fixtures/models", name);
    const golden = JSON.parse(readFileSync(join(path, "golden.json"), "utf8")) as {
      input_ids: number[];
    };
    using source = await loadModel(path, { backend });
    using svd = await convert(source, { method: "factored", init: "svd" });
    using identity = await convert(source, { method: "factored", init: "identity" });
    for (const { maxLogitDifference } of await compare(
      source,
      [svd, identity],
      [golden.input_ids],
    )) {
      expect(maxLogitDifference).toBeLessThan(1e-4);
    }
    if (missing === undefined) {
      using merged = await convert(source, { method: "merged" });
      const [result] = await compare(source, [merged], [golden.input_ids]);
      expect(result!.maxLogitDifference).toBeLessThan(1e-4);
    } else {
      const refused = convert(source, { method: "merged" });
      await expect(refused).rejects.toThrow(
        `convert: merged writes DeepSeek-V3, which has no ${missing}`,
      );
    }
  });
});
