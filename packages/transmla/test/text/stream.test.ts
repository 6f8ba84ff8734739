import { fc, test as prop } from "@fast-check/vitest";
import { describe, expect, test } from "vitest";

import { createTextStream } from "../../src/text/stream.ts";
import { parseTokenizer, type DecodeOptions, type Tokenizer } from "../../src/text/tokenizer.ts";
import { goldenTokenizers, hasGolden } from "./golden.ts";

/** All 256 byte tokens in byte-level spelling, and tokens that begin and end inside characters. */
function byteLevel(): Tokenizer {
  const visible = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  const spelling = Array.from({ length: 256 }, (_, byte) =>
    String.fromCodePoint(visible(byte) ? byte : next++),
  );
  const spell = (...bytes: number[]): string => bytes.map((byte) => spelling[byte]).join("");
  const straddling = [
    spell(0x97, 0xa5, 0xe6),
    spell(0xa5, 0xe6, 0x97),
    spell(0x98, 0x80, 0xf0, 0x9f),
  ];
  return tokenizerOf([...spelling, ...straddling, "Ġa", "�"], { type: "ByteLevel" });
}

/** All 256 byte tokens with byte fallback, a few words, and a leading space that is stripped. */
function byteFallback(): Tokenizer {
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
  );
  const decoders = [
    { type: "Replace", pattern: { String: "▁" }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
    { type: "Strip", content: " ", start: 1, stop: 0 },
  ];
  return tokenizerOf([...bytes, "▁", "▁▁", "▁a", "b", "�", "日"], { type: "Sequence", decoders });
}

/** The first token loses its marks. */
function metaspace(): Tokenizer {
  return tokenizerOf(["▁", "▁▁▁", "▁a", "b"], {
    type: "Metaspace",
    replacement: "▁",
    prepend_scheme: "always",
  });
}

function tokenizerOf(tokens: readonly string[], decoder: object): Tokenizer {
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const added_tokens = [{ id: tokens.length, content: "<end>", special: true }];
  return parseTokenizer({ model: { type: "BPE", vocab, merges: [] }, added_tokens, decoder }, null);
}

function stream(tokenizer: Tokenizer, ids: readonly number[], options: DecodeOptions = {}) {
  const text = createTextStream(tokenizer, options);
  return { pieces: ids.map((id) => text.push(id)), rest: text.end() };
}

/** Ids of all tokens, some of none, and stretches of byte tokens. */
function idsOf(tokenizer: Tokenizer): fc.Arbitrary<number[]> {
  const any = fc.integer({ min: 0, max: tokenizer.vocabSize + 2 });
  const low = fc.integer({ min: 0, max: Math.min(tokenizer.vocabSize, 262) });
  const word = fc
    .constantFrom("日本", "🙂", "é", " a", "  ", "a")
    .map((text) => tokenizer.encode(text, { specialTokens: false }));
  const part = fc.oneof(fc.array(any, { maxLength: 8 }), fc.array(low, { maxLength: 30 }), word);
  return fc.array(part, { maxLength: 12 }).map((parts) => parts.flat());
}

const tokenizers: readonly (readonly [string, Tokenizer])[] = [
  ["bytes in characters", byteLevel()],
  ["bytes in tokens of their own", byteFallback()],
  ["marks for spaces", metaspace()],
  ...goldenTokenizers.map((it) => [it.kind, parseTokenizer(it.tokenizerJson, null)] as const),
];

describe.each(tokenizers)("%s", (_, tokenizer) => {
  prop.prop([idsOf(tokenizer), fc.boolean()], { numRuns: 200 })(
    "pieces join to the decoding of the whole and end with no half character",
    (ids, skipSpecialTokens) => {
      const { pieces, rest } = stream(tokenizer, ids, { skipSpecialTokens });
      expect(pieces.join("") + rest).toBe(tokenizer.decode(ids, { skipSpecialTokens }));
      for (const piece of pieces) expect(piece).not.toMatch(/[\uD800-\uDBFF]$/);
    },
  );

  test("the next text of the same stream begins anew", () => {
    const text = createTextStream(tokenizer);
    const ids = tokenizer.encode(" a b");
    const once = (): string => ids.map((id) => text.push(id)).join("") + text.end();
    expect(once()).toBe(once());
  });
});

describe.skipIf(!hasGolden)("golden streams (needs ../shared)", () => {
  test.each(goldenTokenizers)(
    "$kind shows every text as soon as it is certain",
    ({ tokenizerJson, golden }) => {
      const tokenizer = parseTokenizer(tokenizerJson, null);
      for (const { ids, prefix_decodings } of golden.streaming) {
        const text = createTextStream(tokenizer, { skipSpecialTokens: true });
        let shown = "";
        ids.forEach((id, i) => {
          shown += text.push(id);
          const decoded = prefix_decodings.at(i)!;
          const open = /^<0x..>$/.test(String(tokenizer.token(id))) || decoded.endsWith("\uFFFD");
          expect(shown).toBe(open ? decoded.slice(0, shown.length) : decoded);
        });
      }
    },
  );
});

test("a character is shown with its last byte, even inside a token that begins the next one", () => {
  const tokenizer = byteLevel();
  const straddling = tokenizer.vocabSize - 6; // 97 A5 E6
  const { pieces, rest } = stream(tokenizer, [0xe6, straddling, straddling, 0x97]);
  expect([...pieces, rest]).toEqual(["", "日", "日", "", "\uFFFD"]);
});

test("the space that begins a later word stays", () => {
  const tokenizer = byteFallback();
  const ids = [...Array<string>(40).fill("▁"), "▁a"].map((token) => tokenizer.tokenId(token)!);
  expect(stream(tokenizer, ids).pieces.join("")).toBe(`${" ".repeat(40)}a`);
});

test("tokens without text do not make the next space the first of the text", () => {
  const replace = (text: string, content: string) => ({
    type: "Replace",
    pattern: { String: text },
    content,
  });
  const strip = { type: "Strip", content: " ", start: 1, stop: 0 };
  const decoders = [replace("x", ""), replace("▁", " "), { type: "Fuse" }, strip];
  const tokenizer = tokenizerOf(["▁a", "x"], { type: "Sequence", decoders });
  const ids = [0, ...Array<number>(40).fill(1), 0];
  expect(stream(tokenizer, ids).pieces.join("")).toBe("a a");
});

test("a token costs the decoding of a short window", () => {
  const tokenizer = byteLevel();
  let longest = 0;
  let calls = 0;
  const decode = (ids: readonly number[], options?: DecodeOptions): string => {
    longest = Math.max(longest, ids.length);
    calls++;
    return tokenizer.decode(ids, options);
  };
  const ids = Array.from({ length: 1000 }, (_, i) => (i * 31) % 256);
  stream({ ...tokenizer, decode }, ids);
  expect(longest).toBeLessThanOrEqual(16);
  expect(calls).toBeLessThanOrEqual(1200);
});
