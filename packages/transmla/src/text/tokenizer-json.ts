import { fail, FormatError, UnsupportedError } from "@transmla/core";

import { isObject, show } from "../checkpoint/json.ts";
import { checkComponentFields, checkGrowth } from "./component-fields.ts";
import { restatePreTokenizer, type Component } from "./pre-tokenizers.ts";

/** Ids beyond this are a damaged file: the largest published vocabularies have about 2^18 tokens. */
const MAX_VOCABULARY = 2 ** 22;

/** Sequences of components nest one or two deep in practice. */
const MAX_DEPTH = 16;

/** A token outside of the model's vocabulary, which the text is searched for before anything else. */
interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Whether it is a mark and not text, such as the end of a turn. */
  readonly special: boolean;
}

/** A checked `tokenizer.json`. */
export interface TokenizerJson {
  readonly model: Component;
  readonly added_tokens: readonly AddedToken[];
  readonly normalizer: Component | null;
  readonly pre_tokenizer: Component | null;
  readonly post_processor: Component | null;
  readonly decoder: Component | null;
}

/** The types of each kind of component that `@huggingface/tokenizers` constructs, and where a sequence keeps its parts. */
const COMPONENTS = {
  normalizer: {
    parts: "normalizers",
    types:
      "BertNormalizer Lowercase NFC NFD NFKC NFKD Precompiled Prepend Replace Sequence Strip StripAccents",
  },
  pre_tokenizer: {
    parts: "pretokenizers",
    types:
      "BertPreTokenizer ByteLevel Digits FixedLength Metaspace Punctuation Sequence Split Whitespace WhitespaceSplit",
  },
  post_processor: {
    parts: "processors",
    types: "BertProcessing ByteLevel RobertaProcessing Sequence TemplateProcessing",
  },
  decoder: {
    parts: "decoders",
    types: "BPEDecoder ByteFallback ByteLevel CTC Fuse Metaspace Replace Sequence Strip WordPiece",
  },
} as const;

/**
 * Checks a `tokenizer.json` and restates what the library would read differently from the Rust one.
 *
 * @param json - The parsed file.
 * @param file - What errors call it.
 * @throws FormatError or UnsupportedError that names file, field and value.
 */
export function readTokenizerJson(json: unknown, file: string): TokenizerJson {
  if (!isObject(json)) return fail(FormatError, file, "the file must be a JSON object");
  const component = (kind: keyof typeof COMPONENTS): Component | null => {
    if (json[kind] === null || json[kind] === undefined) return null;
    const read = readComponent(kind, json[kind], file, kind, 0);
    checkGrowth(read, COMPONENTS[kind].parts, file, kind);
    return read;
  };
  return {
    model: readModel(json["model"], file),
    added_tokens: readAddedTokens(json["added_tokens"] ?? [], file),
    normalizer: component("normalizer"),
    pre_tokenizer: component("pre_tokenizer"),
    post_processor: component("post_processor"),
    decoder: component("decoder"),
  };
}

function readComponent(
  kind: keyof typeof COMPONENTS,
  value: unknown,
  file: string,
  path: string,
  depth: number,
): Component {
  if (!isObject(value))
    return fail(FormatError, file, `${path} must be an object, found ${show(value)}`);
  const { parts, types } = COMPONENTS[kind];
  const { type } = value;
  if (typeof type !== "string" || !types.split(" ").includes(type)) {
    const known = types.replaceAll(" ", ", ");
    return fail(
      UnsupportedError,
      file,
      `${path}.type = ${show(type)} is not supported; known are ${known}`,
    );
  }
  if (type !== "Sequence") {
    checkComponentFields(value, file, path);
    return kind === "pre_tokenizer" ? restatePreTokenizer(value, file, path) : value;
  }
  const list = value[parts];
  if (!Array.isArray(list))
    return fail(FormatError, file, `${path}.${parts} must be a list, found ${show(list)}`);
  if (depth === MAX_DEPTH)
    return fail(FormatError, file, `${path} nests deeper than ${MAX_DEPTH} sequences`);
  const read = list.map((part, i) =>
    readComponent(kind, part, file, `${path}.${parts}[${i}]`, depth + 1),
  );
  return { type, [parts]: read };
}

function readModel(model: unknown, file: string): Component {
  if (!isObject(model))
    return fail(FormatError, file, `model must be an object, found ${show(model)}`);
  const { vocab, merges } = model;
  // Files of early versions leave the type out.
  const type = model["type"] ?? (Array.isArray(vocab) ? "Unigram" : merges ? "BPE" : "WordPiece");
  switch (type) {
    case "BPE":
      checkVocabulary(vocab, file);
      checkMerges(merges, file);
      break;
    case "WordPiece":
      checkVocabulary(vocab, file);
      break;
    case "Unigram":
      checkPieces(vocab, model["unk_id"] ?? undefined, file);
      break;
    default:
      return fail(
        UnsupportedError,
        file,
        `model.type = ${show(type)} is not supported; known are BPE, Unigram, WordPiece`,
      );
  }
  // The library looks for a suffix of another name here, so pieces inside a word would not be found.
  if (type === "BPE" && model["continuing_subword_prefix"]) {
    const prefix = show(model["continuing_subword_prefix"]);
    return fail(
      UnsupportedError,
      file,
      `model.continuing_subword_prefix = ${prefix} is not supported`,
    );
  }
  return { ...model, type };
}

function checkVocabulary(vocabulary: unknown, file: string): void {
  if (!isObject(vocabulary)) {
    return fail(
      FormatError,
      file,
      `model.vocab must be an object from tokens to ids, found ${show(vocabulary)}`,
    );
  }
  for (const [token, id] of Object.entries(vocabulary)) {
    checkId(id, file, () => `model.vocab[${show(token)}]`);
  }
}

function checkPieces(pieces: unknown, unknownId: unknown, file: string): void {
  if (!Array.isArray(pieces) || pieces.length === 0 || pieces.length > MAX_VOCABULARY) {
    return fail(FormatError, file, `model.vocab must be a list of 1 to ${MAX_VOCABULARY} pieces`);
  }
  pieces.forEach((piece: unknown, i) => {
    const valid = Array.isArray(piece) && typeof piece[0] === "string" && Number.isFinite(piece[1]);
    if (!valid)
      fail(FormatError, file, `model.vocab[${i}] must be [token, score], found ${show(piece)}`);
  });
  if (unknownId !== undefined && checkId(unknownId, file, () => "model.unk_id") >= pieces.length) {
    const problem = `model.unk_id = ${show(unknownId)} is not below ${pieces.length}`;
    fail(FormatError, file, `${problem}, the number of pieces`);
  }
}

function checkMerges(merges: unknown, file: string): void {
  if (!Array.isArray(merges))
    return fail(FormatError, file, `model.merges must be a list, found ${show(merges)}`);
  // The library takes the form of the first for that of all.
  const isMerge = Array.isArray(merges[0])
    ? (pair: unknown) =>
        Array.isArray(pair) && pair.length === 2 && pair.every((x) => typeof x === "string")
    : (pair: unknown) => typeof pair === "string" && /^[^ ]+ [^ ]+$/.test(pair);
  merges.forEach((merge: unknown, i) => {
    if (!isMerge(merge))
      fail(FormatError, file, `model.merges[${i}] must be a pair of tokens, found ${show(merge)}`);
  });
}

function readAddedTokens(tokens: unknown, file: string): AddedToken[] {
  if (!Array.isArray(tokens))
    return fail(FormatError, file, `added_tokens must be a list, found ${show(tokens)}`);
  return tokens.map((token: unknown, i) => {
    const path = `added_tokens[${i}]`;
    if (!isObject(token) || typeof token["content"] !== "string" || token["content"] === "") {
      return fail(
        FormatError,
        file,
        `${path} must be an object with a content, found ${show(token)}`,
      );
    }
    if (token["single_word"] === true) {
      return fail(
        UnsupportedError,
        file,
        `${path}.single_word = true is not supported (${show(token["content"])})`,
      );
    }
    const id = checkId(token["id"], file, () => `${path}.id`);
    return { ...token, id, content: token["content"], special: token["special"] === true };
  });
}

function checkId(id: unknown, file: string, path: () => string): number {
  if (typeof id === "number" && Number.isInteger(id) && id >= 0 && id < MAX_VOCABULARY) return id;
  return fail(
    FormatError,
    file,
    `${path()} must be an integer from 0 to ${MAX_VOCABULARY - 1}, found ${show(id)}`,
  );
}
