import { fail, UnsupportedError } from "@transmla/core";

import { isObject } from "../checkpoint/json.ts";
import type { Component } from "../text/pre-tokenizers.ts";
import type { TokenizerJson } from "../text/tokenizer-json.ts";

/** How text is prepared for byte-level BPE. */
interface Preparation {
  readonly normalizer: Component | null;
  readonly pre_tokenizer: Component;
  /** Whether a piece that is a token as a whole is never split, in disregard of the merges. */
  readonly ignoreMerges: boolean;
  /** Whether a text begins with the first token unless the file says otherwise. */
  readonly addBos: boolean;
}

/** The pattern of Llama 3, as its `tokenizer.json` has it. */
const LLAMA3 = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

/** The pattern of Qwen2: that of Llama 3 with digits one by one. */
const QWEN2 = LLAMA3.replace("{1,3}", "");

/** The pattern of Mistral's Tekken, as the `tokenizer.json` of Mistral-Nemo has it. */
const TEKKEN = String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

/** The patterns of DeepSeek-V3, one after the other, as its `tokenizer.json` has them. */
const DEEPSEEK3: readonly string[] = [
  String.raw`\p{N}{1,3}`,
  "[一-龥぀-ゟ゠-ヿ]+",
  String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_${"`"}{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
];

const plain = { normalizer: null, ignoreMerges: false, addBos: false };
const gpt2: Preparation = { ...plain, pre_tokenizer: byteLevel(true) };
const llama3: Preparation = {
  ...plain,
  pre_tokenizer: split(LLAMA3),
  ignoreMerges: true,
  addBos: true,
};
const qwen2: Preparation = {
  ...plain,
  normalizer: { type: "NFC" },
  pre_tokenizer: split(QWEN2),
};
const digitsApart: Preparation = {
  ...plain,
  pre_tokenizer: sequence({ type: "Digits", individual_digits: true }, byteLevel(true)),
};
const tekken: Preparation = { ...plain, pre_tokenizer: split(TEKKEN), ignoreMerges: true };

/**
 * By the names of llama.cpp (`llama-vocab.cpp`), those that models of the supported architectures have. They stand for
 * what the `tokenizer.json` of these models says.
 */
const preparations: Readonly<Record<string, Preparation>> = {
  "gpt-2": gpt2,
  llama3,
  "llama-v3": llama3,
  "llama-bpe": llama3,
  falcon3: llama3,
  qwen2,
  "deepseek-r1-qwen": qwen2,
  smollm: digitsApart,
  starcoder: digitsApart,
  refact: digitsApart,
  tekken,
  "deepseek-v3": { ...plain, pre_tokenizer: split(...DEEPSEEK3) },
};

function byteLevel(useRegex: boolean): Component {
  return { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: useRegex };
}

function split(...patterns: readonly string[]): Component {
  const isolated = patterns.map((regex) => {
    return { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
  });
  return sequence(...isolated, byteLevel(false));
}

function sequence(...pretokenizers: readonly Component[]): Component {
  return { type: "Sequence", pretokenizers };
}

/**
 * How a tokenizer prepares text.
 *
 * @param name - `tokenizer.ggml.pre` of the file; undefined for files from before it was introduced.
 * @param file - What errors call the file.
 * @throws UnsupportedError for a name that this library does not know.
 */
export function ggufPreparation(name: string | undefined, file: string): Preparation {
  if (name !== undefined && Object.hasOwn(preparations, name)) return preparations[name]!;
  const known = Object.keys(preparations).join(", ");
  const found = name === undefined ? "is missing" : `= ${JSON.stringify(name)} is not supported`;
  return fail(UnsupportedError, file, `tokenizer.ggml.pre ${found}; known: ${known}`);
}

/**
 * The name that llama.cpp has for the preparation of a tokenizer.
 *
 * @param tokenizer - The parsed `tokenizer.json`.
 * @returns `undefined` where it has none, or where it would prepare text differently.
 */
export function preparationName({
  normalizer,
  pre_tokenizer: preTokenizer,
  model,
}: Pick<TokenizerJson, "normalizer" | "pre_tokenizer" | "model">): string | undefined {
  const known = Object.entries(preparations).find(
    ([, preparation]) =>
      preparation.ignoreMerges === (model["ignore_merges"] === true) &&
      isSame(preparation.normalizer, normalizer) &&
      isSame(preparation.pre_tokenizer, preTokenizer),
  );
  return known?.[0];
}

/** One spelling of the patterns that mean the same. */
function spelled(value: unknown): unknown {
  if (typeof value !== "string") return value;
  return value
    .replaceAll("\r", String.raw`\r`)
    .replaceAll("\n", String.raw`\n`)
    .replaceAll(String.raw`\"`, '"');
}

/** Whether two JSON values say the same; the order of fields does not matter. */
function isSame(a: unknown, b: unknown): boolean {
  if (!isObject(a) || !isObject(b)) {
    const lists = Array.isArray(a) && Array.isArray(b) && a.length === b.length;
    return lists ? a.every((item, i) => isSame(item, b[i])) : spelled(a) === spelled(b);
  }
  const keys = Object.keys(a);
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && isSame(a[key], b[key]))
  );
}
