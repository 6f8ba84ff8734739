// A tokenizer.json as metadata of a GGUF file, read back: it gives the ids and the texts that it gave before.
import { describe, expect, test } from "vitest";

import { readAssets } from "../../src/assets.ts";
import { blobFolder, type Folder } from "../../src/checkpoint/folder.ts";
import { readGguf } from "../../src/checkpoint/gguf/file.ts";
import { createGguf } from "../../src/checkpoint/gguf/write.ts";
import { memoryOutput } from "../../src/checkpoint/output.ts";
import { ggufFields } from "../../src/gguf/config.ts";
import { tokenizerMetadata } from "../../src/gguf/tokenizer-metadata.ts";
import { ggufTokenizer, ggufTokenizerConfig } from "../../src/gguf/tokenizer.ts";
import { goldenTokenizers, type GoldenTokenizer } from "../text/golden.ts";
import { openSmall } from "./small-model.ts";

const json = (value: unknown): Blob => new Blob([JSON.stringify(value)]);

function folderOf({ tokenizerJson, tokenizerConfig, chatTemplateJinja }: GoldenTokenizer): Folder {
  const files = new Map([
    ["tokenizer.json", json(tokenizerJson)],
    ["tokenizer_config.json", json(tokenizerConfig)],
  ]);
  if (chatTemplateJinja !== undefined) {
    files.set("chat_template.jinja", new Blob([chatTemplateJinja]));
  }
  return blobFolder(files, "dir");
}

/** What is read from a GGUF file with the metadata of a tokenizer, as a folder. */
async function readBack(folder: Folder, size: number): Promise<Folder> {
  const output = memoryOutput();
  const metadata = await tokenizerMetadata(folder, {}, size);
  await (await createGguf(await output.create("x.gguf"), metadata, [])).close();
  await output.commit();
  const file = await blobFolder(output.files).open("x.gguf");
  const fields = ggufFields(await readGguf(file), "x.gguf");
  await file.close();
  return blobFolder(
    new Map([
      ["tokenizer.json", json(ggufTokenizer(fields, "x.gguf"))],
      ["tokenizer_config.json", json(ggufTokenizerConfig(fields))],
    ]),
  );
}

const readable = goldenTokenizers.filter(({ kind }) => kind !== "unigram");

describe.skipIf(readable.length === 0)("golden tokenizers", () => {
  test.each(readable)("$kind", async (tokenizer) => {
    const { golden } = tokenizer;
    const folder = await readBack(folderOf(tokenizer), golden.vocab_size);
    const assets = await readAssets(folder, {});
    const original = await readAssets(folderOf(tokenizer), {});
    for (const { text, ids, ids_no_special: plain } of golden.cases) {
      // llama.cpp puts a space before every piece of text; Metaspace does so where none is, and before the first piece only.
      if (tokenizer.kind === "mistral-metaspace" && /^[ ▁]|<\/s>/.test(text)) continue;
      expect(assets.tokenizer!.encode(text)).toEqual(ids);
      expect(assets.tokenizer!.encode(text, { specialTokens: false })).toEqual(plain);
    }
    for (const { messages, tools, add_generation_prompt: prompt, error } of golden.chats) {
      if (error !== undefined) continue;
      const options = { addGenerationPrompt: prompt ?? false, tools };
      expect(assets.chatTemplate!.render(messages, options)).toBe(
        original.chatTemplate!.render(messages, options),
      );
    }
  });
});

test.skipIf(readable.length === 0)(
  "a tokenizer that llama.cpp does not have is refused",
  async () => {
    const unigram = goldenTokenizers.find(({ kind }) => kind === "unigram")!;
    await expect(tokenizerMetadata(folderOf(unigram), {}, 700)).rejects.toThrow(
      'dir/tokenizer.json: model.type = "Unigram" is not written to GGUF; BPE is',
    );
  },
);

test("the tokenizer of a GGUF file is carried over as it is", async () => {
  const folder = await openSmall();
  const keys = await tokenizerMetadata(folder, {}, 11);
  expect([...keys.keys()]).toContain("tokenizer.chat_template");
  const again = await readBack(folder, 11);
  const read = async (from: Folder, name: string): Promise<unknown> => {
    const file = await from.open(name);
    return JSON.parse(new TextDecoder().decode(await file.read(0, file.size)));
  };
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    expect(await read(again, name)).toEqual(await read(folder, name));
  }
});
