// The tokenizers of the GGUF files against the tokenizers that the files were made from.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { readAssets } from "../../src/assets.ts";
import { asFolder, readConfig } from "../../src/load.ts";
import { hasShared, shared } from "../shared.ts";

interface Golden {
  readonly cases: readonly {
    readonly text: string;
    readonly ids: readonly number[];
    readonly ids_no_special: readonly number[];
    readonly decoded: string;
    readonly decoded_skip_special: string;
  }[];
  readonly chats: readonly {
    readonly messages: readonly { readonly role: string; readonly content: string }[];
    readonly tools?: readonly unknown[];
    readonly add_generation_prompt: boolean;
    readonly rendered?: string;
  }[];
}

/** What a function returns, or undefined when it throws. */
function attempt<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch {
    return undefined;
  }
}

describe.skipIf(!hasShared("fixtures/gguf")).each([
  ["llama-f32-f16-bf16", "llama2-spbpe", [2]],
  ["llama-legacy-quants-ropefreqs", "qwen2-bytelevel", [642]],
])("%s", (name, kind, endTokens) => {
  test(`encodes, decodes and renders as ${kind}`, async () => {
    const golden = JSON.parse(
      readFileSync(join(shared, "fixtures/tokenizers", kind, "golden.json"), "utf8"),
    ) as Golden;
    const folder = await asFolder(join(shared, "fixtures/gguf", `${name}.gguf`));
    const assets = await readAssets(folder, {});
    const tokenizer = assets.tokenizer!;
    for (const { text, ids, ids_no_special: plain, ...decoded } of golden.cases) {
      expect(tokenizer.encode(text)).toEqual(ids);
      expect(tokenizer.encode(text, { specialTokens: false })).toEqual(plain);
      expect(tokenizer.decode(ids)).toBe(decoded.decoded);
      const skipped = tokenizer.decode(ids, { skipSpecialTokens: true });
      expect(skipped).toBe(decoded.decoded_skip_special);
    }
    expect(golden.chats.length).toBeGreaterThan(0);
    for (const { messages, tools, add_generation_prompt: prompt, rendered } of golden.chats) {
      const options = { addGenerationPrompt: prompt, tools };
      expect(attempt(() => assets.chatTemplate!.render(messages, options))).toBe(rendered);
    }
    expect(assets.endTokens).toEqual(endTokens);
  });
});

describe.skipIf(!hasShared("models/smollm2-135m"))("SmolLM2", () => {
  test("has its configuration, and encodes as its own tokenizer", async () => {
    const path = join(shared, "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf");
    const folder = await asFolder(path);
    const { json, config } = await readConfig(folder);
    const { layers, hiddenSize, normEps, tiedEmbeddings, contextLength } = config;
    expect({ layers, hiddenSize, normEps, tiedEmbeddings, contextLength }).toEqual({
      layers: 30,
      hiddenSize: 576,
      normEps: 1e-5,
      tiedEmbeddings: true,
      contextLength: 8192,
    });
    const { tokenizer, chatTemplate, endTokens } = await readAssets(folder, json);
    const { windows } = JSON.parse(
      readFileSync(join(shared, "fixtures/smollm2/test.json"), "utf8"),
    ) as { windows: number[][] };
    for (const window of windows) {
      const again = tokenizer!.encode(tokenizer!.decode(window));
      // Windows are cut out of a text: at both ends a token may be part of a longer one.
      expect(again.slice(8, 1000)).toEqual(window.slice(8, 1000));
    }
    const rendered = chatTemplate!.render([{ role: "user", content: "Hello" }]);
    const ids = tokenizer!.encode(rendered);
    expect([ids[0], ids.at(-2), endTokens]).toEqual([1, 2, [2]]);
  });
});
