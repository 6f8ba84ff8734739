import { fail, FormatError, UnsupportedError } from "@transmla/core";

import { show } from "../checkpoint/json.ts";
import type { Fields } from "../model/config/fields.ts";
import type { Component } from "../text/pre-tokenizers.ts";
import { deriveMerges } from "./merges.ts";
import { ggufPreparation } from "./pre-tokenizers.ts";
import { tokenTypes } from "./tokenizer-metadata.ts";

/** The tokens of a file with what it says about each. */
interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
}

/** What differs between the kinds of tokenizers. */
interface Parts {
  readonly model: Component;
  readonly normalizer: Component | null;
  readonly pre_tokenizer: Component | null;
  readonly decoder: Component;
  readonly addBos: boolean;
}

/**
 * Whether a GGUF file has a tokenizer.
 *
 * @param fields - Its metadata.
 */
export function hasGgufTokenizer(fields: Fields): boolean {
  return (
    fields.has("tokenizer.ggml.model") &&
    !["no_vocab", "none"].includes(fields.text("tokenizer.ggml.model"))
  );
}

/**
 * The `tokenizer.json` that the tokenizer of a GGUF file amounts to.
 *
 * @param fields - The metadata of the file.
 * @param file - What errors call it.
 * @throws FormatError that names the key and its value.
 * @throws UnsupportedError for a kind of tokenizer or preparation that this library does not know.
 */
export function ggufTokenizer(fields: Fields, file: string): Component {
  const kind = fields.text("tokenizer.ggml.model");
  const vocabulary = readVocabulary(fields);
  const parts =
    kind === "gpt2"
      ? byteLevel(fields, vocabulary, file)
      : kind === "llama"
        ? sentencePiece(fields, vocabulary, file)
        : fail(
            UnsupportedError,
            file,
            `tokenizer.ggml.model = ${show(kind)} is not supported; known: gpt2, llama`,
          );
  const { model, normalizer, pre_tokenizer, decoder, addBos } = parts;
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: addedTokens(vocabulary),
    normalizer,
    pre_tokenizer,
    post_processor: surround(fields, vocabulary, addBos),
    decoder,
    model,
  };
}

/**
 * The `tokenizer_config.json` of a GGUF file: the tokens with a role, and the chat template.
 *
 * @param fields - The metadata of the file.
 */
export function ggufTokenizerConfig(fields: Fields): Component {
  const { tokens } = readVocabulary(fields);
  const token = (role: string): string | null => roleToken(fields, tokens, role)?.content ?? null;
  const template = "tokenizer.chat_template";
  return {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: token("bos"),
    eos_token: token("eos"),
    unk_token: token("unknown"),
    pad_token: token("padding"),
    clean_up_tokenization_spaces: false,
    ...(fields.has(template) ? { chat_template: fields.text(template) } : {}),
  };
}

/**
 * The tokens that end a text or a turn.
 *
 * @param fields - The metadata of a GGUF file.
 */
export function ggufEndTokens(fields: Fields): number[] {
  const keys = ["eos", "eot", "eom"].map((role) => `tokenizer.ggml.${role}_token_id`);
  return [...new Set(keys.filter((key) => fields.has(key)).map((key) => fields.count(key)))];
}

function readVocabulary(fields: Fields): Vocabulary {
  const tokens = fields.texts("tokenizer.ggml.tokens") ?? [];
  if (tokens.length === 0) fields.refuse("tokenizer.ggml.tokens", "must be a list of tokens");
  const types = fields.has("tokenizer.ggml.token_type")
    ? numbers(fields, "tokenizer.ggml.token_type", tokens.length)
    : tokens.map(() => tokenTypes.normal);
  return { tokens, types };
}

function numbers(fields: Fields, key: string, count: number): readonly number[] {
  const value = fields.raw(key);
  const valid = Array.isArray(value) && value.length === count && value.every(Number.isFinite);
  return valid ? value : fields.refuse(key, `must be a list of ${count} numbers`);
}

/** Byte-level BPE (GPT-2). */
function byteLevel(fields: Fields, { tokens }: Vocabulary, file: string): Parts {
  const pre = "tokenizer.ggml.pre";
  const preparation = ggufPreparation(fields.has(pre) ? fields.text(pre) : undefined, file);
  const merges = fields.texts("tokenizer.ggml.merges");
  if (!merges) return fail(FormatError, file, "tokenizer.ggml.merges is missing");
  return {
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: preparation.ignoreMerges,
      vocab: ids(tokens),
      merges,
    },
    normalizer: preparation.normalizer,
    pre_tokenizer: preparation.pre_tokenizer,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    addBos: preparation.addBos,
  };
}

/** SentencePiece BPE with byte fallback, in the form in which Transformers writes it for Llama 2. */
function sentencePiece(fields: Fields, vocabulary: Vocabulary, file: string): Parts {
  const { tokens, types } = vocabulary;
  const scores = numbers(fields, "tokenizer.ggml.scores", tokens.length);
  const pieces = tokens.map((text, id) => ({ text, score: scores[id]! }));
  const unknown =
    roleToken(fields, tokens, "unknown")?.content ?? tokens[types.indexOf(tokenTypes.unknown)];
  const prefixed = fields.flag("tokenizer.ggml.add_space_prefix", true);
  const spaces = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const prefix = { type: "Prepend", prepend: "▁" };
  const decoders = [
    { type: "Replace", pattern: { String: "▁" }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
    ...(prefixed ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
  ];
  return {
    model: {
      type: "BPE",
      dropout: null,
      unk_token: unknown ?? null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: ids(tokens),
      // Control, byte and other special tokens are never formed from text.
      merges: deriveMerges(
        pieces.filter((_, id) => types[id] === tokenTypes.normal),
        file,
      ),
    },
    normalizer: prefixed ? { type: "Sequence", normalizers: [prefix, spaces] } : spaces,
    pre_tokenizer: null,
    decoder: { type: "Sequence", decoders },
    addBos: true,
  };
}

function ids(tokens: readonly string[]): Readonly<Record<string, number>> {
  return Object.fromEntries(tokens.map((token, id) => [token, id]));
}

/** The tokens that a text is searched for as a whole; marks are special, and text in a token of its own is not. */
function addedTokens({ tokens, types }: Vocabulary): Component[] {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return tokens.flatMap((content, id) => {
    const special = types[id] === tokenTypes.control || types[id] === tokenTypes.unknown;
    const added = content !== "" && (special || types[id] === tokenTypes.userDefined);
    return added ? [{ id, content, ...flags, special }] : [];
  });
}

/** A token with a role, by `tokenizer.ggml.ROLE_token_id`. */
function roleToken(
  fields: Fields,
  tokens: readonly string[],
  role: string,
): { readonly id: number; readonly content: string } | undefined {
  const key = `tokenizer.ggml.${role}_token_id`;
  if (!fields.has(key)) return undefined;
  const id = fields.count(key);
  const content =
    tokens[id] ?? fields.refuse(key, `is not below ${tokens.length}, the number of tokens`);
  return { id, content };
}

/** The first and the last token around every text, where the file asks for them. */
function surround(fields: Fields, { tokens }: Vocabulary, addBos: boolean): Component | null {
  const wanted = (role: string, fallback: boolean): { id: number; content: string } | undefined =>
    fields.flag(`tokenizer.ggml.add_${role}_token`, fallback)
      ? roleToken(fields, tokens, role)
      : undefined;
  const begin = wanted("bos", addBos);
  const end = wanted("eos", false);
  const around = [begin, end].filter((token) => token !== undefined);
  if (around.length === 0) return null;
  const text = (sequence: string, typeId: number): Component[] => {
    const mark = (token: { readonly content: string } | undefined): Component[] =>
      token ? [{ SpecialToken: { id: token.content, type_id: typeId } }] : [];
    return [...mark(begin), { Sequence: { id: sequence, type_id: typeId } }, ...mark(end)];
  };
  return {
    type: "TemplateProcessing",
    single: text("A", 0),
    pair: [...text("A", 0), ...text("B", 1)],
    special_tokens: Object.fromEntries(
      around.map(({ id, content }) => [content, { id: content, ids: [id], tokens: [content] }]),
    ),
  };
}
