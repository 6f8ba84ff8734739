import { isByteToken } from "./decoders.ts";
import type { DecodeOptions, Tokenizer } from "./tokenizer.ts";

/** Decodes tokens as they come; the pieces join to the decoding of all tokens at once. */
export interface TextStream {
  /**
   * Takes the next token.
   *
   * @param id - A token id.
   * @returns The text that has become certain: whole characters, or nothing yet.
   */
  push(id: number): string;
  /**
   * Ends the text; the next token begins another.
   *
   * @returns What was held back. It may be U+FFFD for an incomplete character.
   */
  end(): string;
}

/** How many tokens stay as context of the next. An incomplete character spans at most three. */
const CONTEXT = 8;

/** With how many tokens the window is cut back to its context. */
const WINDOW = 2 * CONTEXT;

/**
 * Makes a streaming decoder. Each token costs one decoding of a short window, whatever the length of the text.
 *
 * Two things are held back: a final U+FFFD, which the next token may complete to a character, and a run of byte tokens
 * (`<0xE6>`) until a token of text follows, because one byte that is not UTF-8 makes the whole run U+FFFD.
 *
 * @param tokenizer - The tokenizer.
 * @param options - Whether to leave out special tokens.
 *
 * @example
 * ```ts
 * import { createTextStream, parseTokenizer } from "transmla";
 * const vocab = { "<0xC3>": 0, "<0xA9>": 1, "!": 2 };
 * const model = { type: "BPE", vocab, merges: [], byte_fallback: true };
 * const stream = createTextStream(parseTokenizer({ model, decoder: { type: "ByteFallback" } }, {}));
 * console.log([0, 1, 2].map((id) => stream.push(id))); // => ["", "", "é!"]
 * ```
 */
export function createTextStream(tokenizer: Tokenizer, options: DecodeOptions = {}): TextStream {
  let window: number[] = [];
  /** How much of the text of the window has been given out. */
  let given = 0;

  function give(text: string, end: number): string {
    const piece = text.slice(given, end);
    given = Math.max(given, end);
    return piece;
  }

  /**
   * Drops tokens whose text is out. Decoded without them the context may begin differently (half a character, a
   * stripped space), but it ends alike: what is not yet given is counted from the end.
   */
  function shorten(pending: number): void {
    const context = window.slice(-CONTEXT);
    const shown = tokenizer.decode(context, options).length - pending;
    if (shown <= 0) return; // the next leading space would be taken for that of the text
    window = context;
    given = shown;
  }

  return {
    push(id) {
      const token = tokenizer.token(id);
      if (token === undefined || (options.skipSpecialTokens && tokenizer.isSpecial(id))) return "";
      window.push(id);
      if (isByteToken(token)) return "";
      const text = tokenizer.decode(window, options);
      const piece = give(text, text.endsWith("\uFFFD") ? text.length - 1 : text.length);
      if (window.length >= WINDOW) shorten(text.length - given);
      return piece;
    },
    end() {
      const text = tokenizer.decode(window, options);
      const piece = give(text, text.length);
      window = [];
      given = 0;
      return piece;
    },
  };
}
