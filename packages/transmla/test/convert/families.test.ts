// Every conversion of every family: equal logits, or a refusal that says why.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { afterEach, describe, expect, test } from "vitest";

import { convert } from "../../src/convert/convert.ts";
import { compare } from "../../src/evaluate/evaluate.ts";
import { loadModel } from "../../src/load.ts";
import { cacheWidth } from "../../src/model/config/model-config.ts";
import type { Model } from "../../src/model/model.ts";
import { hasShared, shared } from "../shared.ts";

/** Models whose merged form DeepSeek-V3 holds exactly. */
const mergeable = [
  "llama-gqa",
  "llama-mqa",
  "llama-mha",
  "llama-tied",
  "llama-rope-linear",
  "llama-rope-llama3",
  "llama-rope-yarn",
  "qwen2",
  "qwen2-tied",
  "phi3",
  "phi3-longrope",
  "phi3-longrope-partial",
  "smollm3",
];

/** Models whose merged form it does not hold, and what it lacks. */
const refused = [
  ["llama-rope-dynamic", "frequencies that grow with the length of the sequence"],
  ["llama-bias", "feed-forward bias"],
  ["mistral-sliding", "sliding window"],
  ["mixtral", "experts that are routed as in mixtral"],
  ["qwen2-sliding", "sliding window"],
  ["qwen3", "norm of queries and keys"],
  ["qwen3-moe", "norm of queries and keys"],
  ["gemma2", "sliding window"],
  ["gemma3-text", "sliding window"],
  ["phi3-sliding", "sliding window"],
] as const;

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

describe.skipIf(!hasShared("fixtures/models"))("conversions", () => {
  const open = (name: string): Promise<Model> =>
    loadModel(join(shared, "fixtures/models", name), { backend });

  /** The largest difference of a logit between a model and others on the tokens of its golden values. */
  async function largestDifference(
    name: string,
    source: Model,
    others: readonly Model[],
  ): Promise<number> {
    const path = join(shared, "fixtures/models", name, "golden.json");
    const { input_ids: ids } = JSON.parse(readFileSync(path, "utf8")) as { input_ids: number[] };
    const compared = await compare(source, others, [ids]);
    return Math.max(...compared.map(({ maxLogitDifference }) => maxLogitDifference));
  }

  test.each([...mergeable, ...refused.map(([name]) => name)])(
    "factored is exact for %s",
    async (name) => {
      using source = await open(name);
      using svd = await convert(source, { method: "factored", init: "svd" });
      using identity = await convert(source, { method: "factored", init: "identity" });
      expect(await largestDifference(name, source, [svd, identity])).toBeLessThan(1e-4);
    },
  );

  test.each(mergeable)("merged is exact for %s", async (name) => {
    using source = await open(name);
    using merged = await convert(source, { method: "merged" });
    expect(await largestDifference(name, source, [merged])).toBeLessThan(1e-4);
  });

  test.each([...mergeable, ...refused.map(([name]) => name)])(
    "merged is exact for %s in the runtime of this library",
    async (name) => {
      using source = await open(name);
      using merged = await convert(source, { method: "merged", target: "own" });
      expect(merged.config.attention.kind).toBe("latent");
      expect(cacheWidth(merged.config.attention)).toBe(cacheWidth(source.config.attention));
      expect(await largestDifference(name, source, [merged])).toBeLessThan(1e-4);
    },
  );

  test.each(refused)("merged is refused for %s: no %s", async (name, missing) => {
    using source = await open(name);
    const run = convert(source, { method: "merged" });
    await expect(run).rejects.toThrow(
      `convert: merged writes DeepSeek-V3, which has no ${missing}`,
    );
  });
});
