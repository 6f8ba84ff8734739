import { fail, FormatError } from "@transmla/core";

import { show } from "../checkpoint/json.ts";

/** SentencePiece makes pieces of at most 16 characters unless told otherwise; runs of spaces come to a few dozen. */
const MAX_PIECE_LENGTH = 256;

/** Characters of all pairs: the merges of a vocabulary of 2^18 tokens take 5 million. */
const MAX_MERGE_CHARACTERS = 2 ** 26;

/** A piece of text, and how readily it is formed. */
export interface ScoredPiece {
  /** The text, with "▁" for spaces. */
  readonly text: string;
  /** Higher is formed earlier. */
  readonly score: number;
}

/**
 * The merges of a SentencePiece BPE vocabulary: every way to put a piece together from two others, those of the highest
 * score first, of one score those with the longest left part first. This is the rule of Transformers
 * (`convert_slow_tokenizer.py`, `generate_merges`).
 *
 * @param pieces - The pieces that can be formed from text, in the order of their ids.
 * @param file - What errors call the file.
 * @returns Pairs of texts, the earliest merge first.
 */
export function deriveMerges(
  pieces: readonly ScoredPiece[],
  file: string,
): (readonly [left: string, right: string])[] {
  const lengths = new Map(pieces.map(({ text }) => [text, characters(text)]));
  const merges: { readonly pair: readonly [string, string]; readonly score: number }[] = [];
  let total = 0;
  for (const { text, score } of pieces) {
    if (text.length > MAX_PIECE_LENGTH) {
      const problem = `token ${show(text)} has ${text.length} characters`;
      return fail(FormatError, file, `${problem}, above the limit of ${MAX_PIECE_LENGTH}`);
    }
    for (let at = 1; at < text.length; at++) {
      const pair = [text.slice(0, at), text.slice(at)] as const;
      if (!lengths.has(pair[0]) || !lengths.has(pair[1])) continue;
      total += text.length;
      if (total > MAX_MERGE_CHARACTERS) {
        const problem = `the merges take more than ${MAX_MERGE_CHARACTERS} characters`;
        return fail(FormatError, file, `tokenizer.ggml.tokens: ${problem}`);
      }
      merges.push({ pair, score });
    }
  }
  const length = (text: string): number => lengths.get(text)!;
  merges.sort(
    (a, b) =>
      b.score - a.score ||
      length(b.pair[0]) - length(a.pair[0]) ||
      length(b.pair[1]) - length(a.pair[1]),
  );
  return merges.map(({ pair }) => pair);
}

/** Unicode characters, of which some take two code units. */
function characters(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}
