import { fail, FormatError, UnsupportedError } from "@transmla/core";

import { readAssets, readTokenizerFiles } from "../assets.ts";
import type { Folder } from "../checkpoint/folder.ts";
import { flag, floats, integers, text, texts, u32 } from "../checkpoint/gguf/metadata.ts";
import { show } from "../checkpoint/json.ts";
import type { HuggingFaceConfig } from "../model/config/model-config.ts";
import { readTokenizerJson, type TokenizerJson } from "../text/tokenizer-json.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { preparationName } from "./pre-tokenizers.ts";

/** The kinds of tokens (llama.cpp, `llama_token_type`). */
export const tokenTypes = {
  normal: 1,
  unknown: 2,
  control: 3,
  userDefined: 4,
  unused: 5,
  byte: 6,
} as const;

/** Metadata by key, as it is stored. */
type Metadata = Map<string, Uint8Array>;

/**
 * The tokenizer and the chat template of a model as metadata of a GGUF file: those of the GGUF file that it is, or what its
 * `tokenizer.json` amounts to in llama.cpp.
 *
 * @param folder - The model.
 * @param config - Its `config.json`.
 * @param vocabSize - The rows of the embedding; ids without a token become unused ones.
 * @throws UnsupportedError for a tokenizer that llama.cpp does not have.
 */
export async function tokenizerMetadata(
  folder: Folder,
  config: HuggingFaceConfig,
  vocabSize: number,
): Promise<ReadonlyMap<string, Uint8Array>> {
  if (folder.ggufTokenizer) return folder.ggufTokenizer();
  const { json, template } = await readTokenizerFiles(folder);
  if (json === undefined) {
    const problem = "llama.cpp aborts without a tokenizer, and there is no tokenizer.json; add one";
    fail(UnsupportedError, "convert", problem, folder.path);
  }
  const file = `${folder.path}/tokenizer.json`;
  const tokenizerJson = readTokenizerJson(json, file);
  // How text is prepared is compared with what is known as it is stored, not as it is read.
  const stored = { ...tokenizerJson, ...pick(json, "normalizer"), ...pick(json, "pre_tokenizer") };
  const assets = await readAssets(folder, config);
  const metadata: Metadata = new Map([
    ...(stored.model["byte_fallback"] === true
      ? sentencePiece(stored, vocabSize, file)
      : byteLevel(stored, vocabSize, file)),
    ...roles(assets.tokenizer!, assets.endTokens),
  ]);
  if (template) metadata.set("tokenizer.chat_template", text(template.text));
  return metadata;
}

function pick(json: unknown, name: string): object {
  return { [name]: (json as Readonly<Record<string, unknown>>)[name] ?? null };
}

/** The tokens of all ids, and the kind of each. */
function vocabulary(
  { model, added_tokens: added }: TokenizerJson,
  size: number,
  file: string,
): { tokens: string[]; types: number[] } {
  const vocab = model["vocab"] as Readonly<Record<string, number>>;
  const tokens = Array.from({ length: size }, (_, id) => `[PAD${id}]`);
  const types = new Array<number>(size).fill(tokenTypes.unused);
  const place = (token: string, id: number, type: number): void => {
    if (id >= size) {
      const problem = `token ${show(token)} has the id ${id}, but the model has ${size} tokens`;
      fail(FormatError, file, problem);
    }
    tokens[id] = token;
    types[id] = type;
  };
  for (const [token, id] of Object.entries(vocab)) place(token, id, tokenTypes.normal);
  for (const { id, content, special } of added) {
    place(content, id, special ? tokenTypes.control : tokenTypes.userDefined);
  }
  return { tokens, types };
}

/** The pairs that are merged, in their order. */
function mergesOf({ model }: TokenizerJson, file: string): (readonly [string, string])[] {
  if (model["type"] !== "BPE") {
    fail(
      UnsupportedError,
      file,
      `model.type = ${show(model["type"])} is not written to GGUF; BPE is`,
    );
  }
  const merges = model["merges"] as readonly (string | readonly [string, string])[];
  return merges.map((merge) =>
    typeof merge === "string" ? (merge.split(" ") as [string, string]) : merge,
  );
}

/** Byte-level BPE (GPT-2). */
function byteLevel(json: TokenizerJson, size: number, file: string): Metadata {
  const merges = mergesOf(json, file);
  const name =
    preparationName(json) ??
    fail(
      UnsupportedError,
      file,
      `llama.cpp has no name for this pre_tokenizer: ${show(json.pre_tokenizer)}`,
    );
  const { tokens, types } = vocabulary(json, size, file);
  return new Map([
    ["tokenizer.ggml.model", text("gpt2")],
    ["tokenizer.ggml.pre", text(name)],
    ["tokenizer.ggml.tokens", texts(tokens)],
    ["tokenizer.ggml.token_type", integers(types)],
    ["tokenizer.ggml.merges", texts(merges.map((pair) => pair.join(" ")))],
  ]);
}

/** SentencePiece BPE with byte fallback: the earlier a token is merged, the higher its score. */
function sentencePiece(json: TokenizerJson, size: number, file: string): Metadata {
  const merges = mergesOf(json, file);
  const { tokens, types } = vocabulary(json, size, file);
  const ranks = new Map<string, number>();
  merges.forEach((pair, rank) => {
    const token = pair.join("");
    if (!ranks.has(token)) ranks.set(token, rank);
  });
  const unknown = tokens.indexOf(String(json.model["unk_token"]));
  if (unknown >= 0) types[unknown] = tokenTypes.unknown;
  const scores = tokens.map((token, id) => {
    if (/^<0x[0-9A-F]{2}>$/.test(token)) types[id] = tokenTypes.byte;
    if (types[id] !== tokenTypes.normal) return 0;
    const rank = ranks.get(token);
    if (rank !== undefined) return -(rank + 1);
    // Characters come after all merges; what no merge forms is never formed.
    return /^.$/su.test(token) ? -(merges.length + 1 + id) : -1e9;
  });
  return new Map([
    ["tokenizer.ggml.model", text("llama")],
    ["tokenizer.ggml.tokens", texts(tokens)],
    ["tokenizer.ggml.scores", floats(scores)],
    ["tokenizer.ggml.token_type", integers(types)],
    ["tokenizer.ggml.add_space_prefix", flag(addsSpace(json, file))],
  ]);
}

/** Whether a text begins with a space of its own. */
function addsSpace(
  { normalizer, pre_tokenizer: preTokenizer }: TokenizerJson,
  file: string,
): boolean {
  if (preTokenizer?.["type"] === "Metaspace") return preTokenizer["prepend_scheme"] !== "never";
  const steps = [
    normalizer,
    ...((normalizer?.["normalizers"] as TokenizerJson["normalizer"][]) ?? []),
  ];
  const types = steps.map((step) => step?.["type"]).filter((type) => type !== "Sequence");
  if (
    types.includes("Replace") &&
    types.every((type) => type === "Replace" || type === "Prepend")
  ) {
    return types.includes("Prepend");
  }
  return fail(
    UnsupportedError,
    file,
    `llama.cpp does not prepare text as this normalizer: ${show(normalizer)}`,
  );
}

/** The tokens with a role, and those around every text. */
function roles(tokenizer: Tokenizer, endTokens: readonly number[]): Metadata {
  const metadata: Metadata = new Map();
  const { bosToken, eosToken, unkToken, padToken } = tokenizer.specialTokens;
  const role = (name: string, id: number | undefined): void => {
    if (id !== undefined) metadata.set(`tokenizer.ggml.${name}_token_id`, u32(id));
  };
  const idOf = (token: string | undefined): number | undefined =>
    token === undefined ? undefined : tokenizer.tokenId(token);
  const [bos, stated] = [idOf(bosToken), idOf(eosToken)];
  const eos = stated ?? endTokens[0];
  role("bos", bos);
  role("eos", eos);
  role("unknown", idOf(unkToken));
  role("padding", idOf(padToken));
  role(
    "eot",
    endTokens.find((id) => id !== eos),
  );
  const around = tokenizer.encode("a");
  const inside = tokenizer.encode("a", { specialTokens: false });
  const added = around.length - inside.length;
  metadata.set("tokenizer.ggml.add_bos_token", flag(added > 0 && around[0] === bos));
  metadata.set("tokenizer.ggml.add_eos_token", flag(added > 0 && around.at(-1) === eos));
  return metadata;
}
