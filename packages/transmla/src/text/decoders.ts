import type { Component } from "./pre-tokenizers.ts";

/** What is used of a decoder of `@huggingface/tokenizers`. */
export interface Decoder {
  /** The parts of a sequence. */
  readonly decoders?: readonly Decoder[];
  /** Tokens in, pieces of text out. */
  decode_chain: (tokens: readonly string[]) => string[];
}

/**
 * Replaces, in place, the decoders of `@huggingface/tokenizers` 0.2.0 that differ from the Rust library `tokenizers`.
 *
 * @param decoder - The constructed decoder.
 * @param component - What it was made from.
 */
export function correctDecoder(decoder: Decoder, component: Component): void {
  switch (component["type"]) {
    case "Sequence":
      decoder.decoders?.forEach((part, i) => {
        correctDecoder(part, (component["decoders"] as readonly Component[])[i]!);
      });
      break;
    case "ByteFallback":
      decoder.decode_chain = decodeByteFallback;
      break;
    case "Metaspace":
      decoder.decode_chain = (tokens) => decodeMetaspace(tokens, component);
      break;
    default:
  }
}

/** A token that stands for one byte, where the vocabulary has no token for a character. */
const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

/**
 * Whether a token stands for one byte in a vocabulary with byte fallback.
 *
 * @param token - A token as `tokenizer.json` writes it.
 */
export function isByteToken(token: string): boolean {
  return BYTE_TOKEN.test(token);
}

/**
 * A run of byte tokens is text when all of it is UTF-8; otherwise each byte becomes a U+FFFD. The library puts U+FFFD
 * for the broken parts only, and drops U+FEFF.
 */
function decodeByteFallback(tokens: readonly string[]): string[] {
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const pieces: string[] = [];
  let run: number[] = [];
  const endRun = (): void => {
    if (run.length === 0) return;
    try {
      pieces.push(utf8.decode(Uint8Array.from(run)));
    } catch {
      pieces.push("\uFFFD".repeat(run.length));
    }
    run = [];
  };
  for (const token of tokens) {
    const byte = BYTE_TOKEN.exec(token)?.[1];
    if (byte !== undefined) {
      run.push(Number.parseInt(byte, 16));
    } else {
      endRun();
      pieces.push(token);
    }
  }
  endRun();
  return pieces;
}

/** The first token loses all its marks, unless none is prepended. The library takes one, always. */
function decodeMetaspace(tokens: readonly string[], component: Component): string[] {
  const { replacement = "▁", prepend_scheme: scheme, add_prefix_space: prefix } = component;
  const prepended = (scheme ?? (prefix === false ? "never" : "always")) !== "never";
  return tokens.map((token, i) =>
    token.replaceAll(String(replacement), i === 0 && prepended ? "" : " "),
  );
}
