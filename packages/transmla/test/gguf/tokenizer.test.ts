import { FormatError, UnsupportedError } from "@transmla/core";
import { describe, expect, test } from "vitest";

import { readAssets } from "../../src/assets.ts";
import { FileError } from "../../src/checkpoint/folder.ts";
import { openSmall } from "./small-model.ts";
import { flag, list, text, texts, u32, type Field } from "./writer.ts";

describe("the tokenizer", () => {
  test("merges by score, marks control tokens and ends at all end tokens", async () => {
    const { tokenizer, chatTemplate, endTokens } = await readAssets(await openSmall(), {});
    expect(tokenizer!.encode("ab a\né")).toEqual([1, 9, 7, 3, 0]);
    expect(tokenizer!.encode("a<turn>", { specialTokens: false })).toEqual([7, 10]);
    expect([1, 2, 10].map((id) => tokenizer!.isSpecial(id))).toEqual([true, true, false]);
    expect(tokenizer!.decode([9, 7, 3])).toBe("ab a\n");
    expect(endTokens).toEqual([2, 10]);
    expect(chatTemplate!.render([{ role: "user", content: "a" }])).toBe("<s>a<turn>");
  });

  test("adds what the file asks for", async () => {
    const encode = async (change: Readonly<Record<string, Field>>) => {
      const { tokenizer } = await readAssets(await openSmall(change), {});
      return tokenizer!.encode("ab");
    };
    const bare = { "tokenizer.ggml.add_bos_token": flag(false) };
    expect(await encode({ "tokenizer.ggml.add_eos_token": flag(true) })).toEqual([1, 9, 2]);
    expect(await encode(bare)).toEqual([9]);
    expect(await encode({ ...bare, "tokenizer.ggml.add_space_prefix": flag(false) })).toEqual([8]);
  });

  test.each([
    ["gpt-2", "12 ab", ["1", "2", "Ġ", "ab"]],
    ["llama-bpe", "12 ab", ["12", "Ġab"]],
    ["qwen2", "12 ab", ["1", "2", "Ġ", "ab"]],
    ["smollm", "12 ab", ["1", "2", "Ġ", "ab"]],
    ["tekken", "12 ab", ["1", "2", "Ġab"]],
  ])("is byte-level BPE with the preparation of %s", async (pre, input, expected) => {
    const words = ["1", "2", "Ġ", "a", "b", "ab", "12", "Ġab"];
    const folder = await openSmall({
      "tokenizer.ggml.model": text("gpt2"),
      "tokenizer.ggml.pre": text(pre),
      "tokenizer.ggml.tokens": texts(words),
      "tokenizer.ggml.token_type": list(
        5,
        words.map(() => 1),
      ),
      "tokenizer.ggml.merges": texts(["a b"]),
      "tokenizer.ggml.add_bos_token": flag(false),
      "tokenizer.ggml.eot_token_id": u32(2),
    });
    const { tokenizer } = await readAssets(folder, {});
    expect(tokenizer!.encode(input).map((id) => tokenizer!.token(id))).toEqual(expected);
  });

  test("is absent where the file has none", async () => {
    const folder = await openSmall({ "tokenizer.ggml.model": text("no_vocab") });
    expect(await folder.exists("tokenizer.json")).toBe(false);
    expect((await readAssets(folder, {})).tokenizer).toBeUndefined();
    await expect(folder.open("tokenizer.json")).rejects.toThrow(
      new FileError("open: no such file (dir/x.gguf/tokenizer.json)"),
    );
  });

  test.each<readonly [Readonly<Record<string, Field>>, string]>([
    [
      { "tokenizer.ggml.model": text("bert") },
      'tokenizer.ggml.model = "bert" is not supported; known: gpt2, llama',
    ],
    [
      { "tokenizer.ggml.model": text("gpt2") },
      "tokenizer.ggml.pre is missing; known: gpt-2, llama3, llama-v3, llama-bpe, falcon3, qwen2, deepseek-r1-qwen, smollm, starcoder, refact, tekken, deepseek-v3",
    ],
    [
      { "tokenizer.ggml.model": text("gpt2"), "tokenizer.ggml.pre": text("viking") },
      'tokenizer.ggml.pre = "viking" is not supported; known: gpt-2, llama3, llama-v3, llama-bpe, falcon3, qwen2, deepseek-r1-qwen, smollm, starcoder, refact, tekken, deepseek-v3',
    ],
    [
      { "tokenizer.ggml.model": text("gpt2"), "tokenizer.ggml.pre": text("qwen2") },
      "tokenizer.ggml.merges is missing",
    ],
    [
      { "tokenizer.ggml.scores": list(6, [1, 2]) },
      "tokenizer.ggml.scores = [1,2] must be a list of 11 numbers",
    ],
    [
      { "tokenizer.ggml.token_type": list(5, []) },
      "tokenizer.ggml.token_type = [] must be a list of 11 numbers",
    ],
    [
      { "tokenizer.ggml.tokens": list(4, [1]) },
      "tokenizer.ggml.tokens must be a list of texts, found [1]",
    ],
    [
      { "tokenizer.ggml.bos_token_id": u32(11) },
      "tokenizer.ggml.bos_token_id = 11 is not below 11, the number of tokens",
    ],
  ])("is refused: %#", async (change, problem) => {
    const folder = await openSmall(change);
    const kind = problem.includes("known:") ? UnsupportedError : FormatError;
    await expect(readAssets(folder, {})).rejects.toThrow(new kind(`dir/x.gguf: ${problem}`));
  });
});
