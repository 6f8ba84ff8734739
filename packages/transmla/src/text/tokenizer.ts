import * as library from "@huggingface/tokenizers";
import { ArgumentError, fail, FormatError } from "@transmla/core";

import { isObject, show } from "../checkpoint/json.ts";
import { correctDecoder, type Decoder } from "./decoders.ts";
import { readTokenizerJson, type TokenizerJson } from "./tokenizer-json.ts";

/** Choices of {@link Tokenizer.encode}. */
export interface EncodeOptions {
  /** Whether to add the tokens that the tokenizer puts around a text, such as the first one; true when absent. */
  readonly specialTokens?: boolean | undefined;
}

/** Choices of {@link Tokenizer.decode}. */
export interface DecodeOptions {
  /** Whether to leave out special tokens; false when absent. */
  readonly skipSpecialTokens?: boolean | undefined;
}

/** The tokens of `tokenizer_config.json` that have a role; chat templates know them by these names. */
export interface SpecialTokens {
  /** What a text begins with. */
  readonly bosToken?: string | undefined;
  /** What ends a text or a turn. */
  readonly eosToken?: string | undefined;
  /** What stands for an unknown character. */
  readonly unkToken?: string | undefined;
  /** What fills a batch. */
  readonly padToken?: string | undefined;
}

/** Text to token ids and back, as the Rust library `tokenizers` does it. */
export interface Tokenizer {
  /** The number of ids: one more than the largest. A model may have more rows in its embedding. */
  readonly vocabSize: number;
  /** The tokens that have a role. */
  readonly specialTokens: SpecialTokens;
  /**
   * The ids of a text. Special tokens that are written in the text are recognised, as in Hugging Face libraries.
   *
   * @param text - Any text.
   * @param options - Whether to add special tokens.
   */
  encode(text: string, options?: EncodeOptions): number[];
  /**
   * The text of ids. Ids without a token give nothing; bytes that are not UTF-8 give U+FFFD.
   *
   * @param ids - Token ids.
   * @param options - Whether to leave out special tokens.
   */
  decode(ids: readonly number[], options?: DecodeOptions): string;
  /**
   * The id of a token.
   *
   * @param token - As `tokenizer.json` writes it.
   */
  tokenId(token: string): number | undefined;
  /**
   * The token of an id, as `tokenizer.json` writes it.
   *
   * @param id - A token id.
   */
  token(id: number): string | undefined;
  /**
   * Whether an id is a mark and not text, such as the end of a turn.
   *
   * @param id - A token id.
   */
  isSpecial(id: number): boolean;
}

/** What is used of the library's tokenizer. Its own types do not resolve under `nodenext`. */
interface LibraryTokenizer {
  readonly model: { readonly vocab: readonly (string | undefined)[] };
  readonly decoder: Decoder | null;
  encode(
    text: string,
    options: { add_special_tokens: boolean },
  ): { readonly ids: readonly (number | null | undefined)[] };
  decode(ids: readonly number[], options: { clean_up_tokenization_spaces: boolean }): string;
  token_to_id(token: string): number | undefined;
}

const LibraryTokenizer = library.Tokenizer as unknown as new (
  json: TokenizerJson,
  config: object,
) => LibraryTokenizer;

/** A text that passes through every component: a defect shows when the file is read. */
const PROBE = "a 1";

/**
 * Makes a tokenizer from the files of a Hugging Face model. What `tokenizer.json` says holds; the configuration only
 * names the tokens with a role.
 *
 * The time that the regular expressions of a hostile file take is not bounded.
 *
 * @param tokenizerJson - The parsed `tokenizer.json`.
 * @param tokenizerConfig - The parsed `tokenizer_config.json`; null or undefined when there is none.
 * @param file - What errors call the first file.
 * @param configFile - What errors call the second file.
 * @throws FormatError or UnsupportedError that names file, field and value.
 *
 * @example
 * ```ts
 * import { parseTokenizer } from "transmla";
 * const vocab = { a: 0, b: 1, ab: 2 };
 * const tokenizer = parseTokenizer({ model: { type: "BPE", vocab, merges: ["a b"] }, decoder: { type: "Fuse" } }, {});
 * console.log(tokenizer.encode("abb")); // => [2, 1]
 * console.log(tokenizer.decode([2, 1])); // => "abb"
 * ```
 */
export function parseTokenizer(
  tokenizerJson: unknown,
  tokenizerConfig: unknown,
  file = "tokenizer.json",
  configFile = "tokenizer_config.json",
): Tokenizer {
  const json = readTokenizerJson(tokenizerJson, file);
  const specialTokens = readSpecialTokens(tokenizerConfig ?? {}, configFile);
  const special = new Set(json.added_tokens.filter((token) => token.special).map(({ id }) => id));
  let inner: LibraryTokenizer;
  try {
    inner = new LibraryTokenizer(json, {});
    const { ids } = inner.encode(PROBE, { add_special_tokens: true });
    const known = ids.filter((id) => typeof id === "number");
    if (known.length > 0) inner.decode(known, { clean_up_tokenization_spaces: false });
  } catch (error) {
    return fail(FormatError, file, error instanceof Error ? error.message : String(error));
  }
  if (inner.encode("", { add_special_tokens: true }).ids.some((id) => typeof id !== "number")) {
    fail(FormatError, file, "post_processor adds a token that the vocabulary does not have");
  }
  if (inner.decoder) correctDecoder(inner.decoder, json.decoder!);
  const { vocab } = inner.model;
  return {
    vocabSize: vocab.length,
    specialTokens,
    encode(text, options = {}) {
      const { ids } = inner.encode(text, { add_special_tokens: options.specialTokens ?? true });
      if (!ids.every((id) => typeof id === "number")) {
        fail(
          ArgumentError,
          "encode",
          "the text has a character without a token, and there is no token for unknown ones",
          file,
        );
      }
      return [...ids];
    },
    decode(ids, options = {}) {
      const skip = options.skipSpecialTokens ?? false;
      const known = ids.filter((id) => vocab[id] !== undefined && !(skip && special.has(id)));
      // Transformers 5 ignores `clean_up_tokenization_spaces` for BPE too: it removes spaces that the model wrote.
      return known.length === 0 ? "" : inner.decode(known, { clean_up_tokenization_spaces: false });
    },
    tokenId: (token) => inner.token_to_id(token),
    token: (id) => vocab[id],
    isSpecial: (id) => special.has(id),
  };
}

function readSpecialTokens(config: unknown, file: string): SpecialTokens {
  if (!isObject(config)) return fail(FormatError, file, "the file must be a JSON object");
  const read = (name: string): string | undefined => {
    const value = config[name] ?? undefined;
    const content = isObject(value) ? value["content"] : value;
    if (content === undefined || typeof content === "string") return content;
    return fail(
      FormatError,
      file,
      `${name} must be a text or an object with a content, found ${show(value)}`,
    );
  };
  return {
    bosToken: read("bos_token"),
    eosToken: read("eos_token"),
    unkToken: read("unk_token"),
    padToken: read("pad_token"),
  };
}
