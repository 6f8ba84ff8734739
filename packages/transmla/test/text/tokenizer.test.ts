import { describe, expect, test } from "vitest";

import { parseTokenizer } from "../../src/text/tokenizer.ts";
import { goldenTokenizers, hasGolden } from "./golden.ts";

/** A byte-pair tokenizer without merges whose tokens are whole pieces: a piece is found, or falls into its characters. */
function pieces(preTokenizer: unknown, tokens: readonly string[], more: object = {}) {
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const model = { type: "BPE", vocab, merges: [], ignore_merges: true };
  return parseTokenizer({ model, pre_tokenizer: preTokenizer, ...more }, null);
}

function split(
  preTokenizer: unknown,
  text: string,
  tokens: readonly string[],
): (string | undefined)[] {
  const tokenizer = pieces(preTokenizer, tokens);
  return tokenizer.encode(text).map((id) => tokenizer.token(id));
}

describe.skipIf(!hasGolden)("golden values of the Rust library (needs ../shared)", () => {
  test.each(goldenTokenizers)("$kind", ({ tokenizerJson, tokenizerConfig, golden }) => {
    const tokenizer = parseTokenizer(tokenizerJson, tokenizerConfig);
    expect(tokenizer.vocabSize).toBe(golden.vocab_size);
    expect(golden.cases.length).toBeGreaterThan(40);
    for (const { text, ids, ids_no_special, decoded, decoded_skip_special } of golden.cases) {
      expect([text, tokenizer.encode(text)]).toEqual([text, ids]);
      const plain = tokenizer.encode(text, { specialTokens: false });
      expect([text, plain]).toEqual([text, ids_no_special]);
      expect(tokenizer.decode(ids)).toBe(decoded);
      expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(decoded_skip_special);
    }
    for (const { ids, prefix_decodings } of golden.streaming) {
      const decoded = ids.map((_, i) =>
        tokenizer.decode(ids.slice(0, i + 1), { skipSpecialTokens: true }),
      );
      expect(decoded).toEqual(prefix_decodings);
    }
  });

  test("the tokens with a role come from the configuration", () => {
    const roles = goldenTokenizers.map(({ kind, tokenizerJson, tokenizerConfig }) => {
      const { bosToken, eosToken, padToken } = parseTokenizer(
        tokenizerJson,
        tokenizerConfig,
      ).specialTokens;
      return [kind, bosToken, eosToken, padToken];
    });
    expect(roles).toContainEqual(["qwen2-bytelevel", undefined, "<|im_end|>", "<|endoftext|>"]);
    expect(roles).toContainEqual(["llama2-spbpe", "<s>", "</s>", undefined]);
  });
});

describe("pre-tokenizers as in the Rust library", () => {
  const text = "the-final--countdown"; // the example of the Rust library's documentation
  test.each([
    ["Removed", ["the", "final", "countdown"]],
    ["Isolated", ["the", "-", "final", "-", "-", "countdown"]],
    ["MergedWithPrevious", ["the-", "final-", "-", "countdown"]],
    ["MergedWithNext", ["the", "-final", "-", "-countdown"]],
    ["Contiguous", ["the", "-", "final", "--", "countdown"]],
  ])("split %s", (behavior, expected) => {
    for (const pattern of [{ String: "-" }, { Regex: "\\-" }]) {
      const found = split({ type: "Split", pattern, behavior, invert: false }, text, [
        ...new Set(expected),
      ]);
      expect(found).toEqual(expected);
    }
  });

  test("an inverted isolating split keeps what lies between the matches", () => {
    const preTokenizer = {
      type: "Split",
      pattern: { Regex: "\\d+" },
      behavior: "Isolated",
      invert: true,
    };
    expect(split(preTokenizer, "ab12cd", ["ab", "12", "cd"])).toEqual(["ab", "12", "cd"]);
  });

  test("a text without a separator costs linear time", () => {
    const preTokenizer = {
      type: "Split",
      pattern: { String: " " },
      behavior: "MergedWithPrevious",
    };
    const long = "a".repeat(300_000); // quadratic: hours
    expect(pieces(preTokenizer, [long]).encode(long)).toEqual([0]);
  });

  test("digits of all scripts, and one by one", () => {
    const tokens = ["a", "12", "1", "2", "٣٤", "٣", "٤", "½"];
    const digits = (individual: boolean) => ({ type: "Digits", individual_digits: individual });
    expect(split(digits(false), "a12a٣٤a½", tokens)).toEqual(["a", "12", "a", "٣٤", "a", "½"]);
    expect(split(digits(true), "a12a٣٤", tokens)).toEqual(["a", "1", "2", "a", "٣", "٤"]);
  });

  test("punctuation stands alone unless told otherwise", () => {
    const tokens = ["a", "!?", "!", "?", "$"];
    expect(split({ type: "Punctuation" }, "a!?$a", tokens)).toEqual(["a", "!", "?", "$", "a"]);
    const contiguous = { type: "Punctuation", behavior: "Contiguous" };
    expect(split(contiguous, "a!?a", tokens)).toEqual(["a", "!?", "a"]);
  });

  test("U+FEFF is not white space for the byte-level pattern", () => {
    const tokens = ["ï»¿", "ï»¿'", "'", "s", "'s"];
    const preTokenizer = { type: "ByteLevel", add_prefix_space: false, use_regex: true };
    expect(split(preTokenizer, "\uFEFF's", tokens)).toEqual(["ï»¿'", "s"]);
  });

  test("a metaspace splits before each mark, and old files say prepend_scheme with add_prefix_space", () => {
    const tokens = ["▁a▁b", "▁a", "▁b", "a", "▁"];
    const metaspace = (more: object) => ({ type: "Metaspace", replacement: "▁", ...more });
    expect(split(metaspace({}), "a b", tokens)).toEqual(["▁a", "▁b"]);
    expect(split(metaspace({ split: false }), "a b", tokens)).toEqual(["▁a▁b"]);
    expect(split(metaspace({ add_prefix_space: false }), "a b", tokens)).toEqual(["a", "▁b"]);
  });

  test("known difference: tokens that strip white space see U+FEFF as such, and U+0085 not", () => {
    const added = [{ id: 3, content: "<m>", lstrip: false, rstrip: true, normalized: false }];
    const tokenizer = pieces(null, ["a", "\uFEFF", "\u0085"], { added_tokens: added });
    expect(tokenizer.encode("<m> \na")).toEqual([3, 0]);
    expect(tokenizer.encode("<m>\uFEFFa")).toEqual([3, 0]); // Rust: [3, 1, 0]
    expect(tokenizer.encode("<m>\u0085a")).toEqual([3, 2, 0]); // Rust: [3, 0]
  });
});

describe("decoding as in the Rust library", () => {
  const bytes = ["<0xE6>", "<0x97>", "<0xA5>", "<0xEF>", "<0xBB>", "<0xBF>", "x"];
  const fallback = pieces(null, bytes, { decoder: { type: "ByteFallback" } });

  test("a run of byte tokens is a text or as many U+FFFD", () => {
    expect(fallback.decode([0, 1, 2, 6])).toBe("日x");
    expect(fallback.decode([0, 1, 2, 0])).toBe("\uFFFD".repeat(4));
    expect(fallback.decode([0, 1, 2, 6, 0])).toBe("日x\uFFFD");
    expect(fallback.decode([3, 4, 5])).toBe("\uFEFF");
  });

  test("nothing, and ids without a token, decode to nothing", () => {
    expect(fallback.decode([])).toBe("");
    expect(fallback.decode([6, 7, -1, 6, 1.5, Number.NaN])).toBe("xx");
    expect(fallback.token(7)).toBeUndefined();
    expect(fallback.tokenId("x")).toBe(6);
    expect(fallback.tokenId("y")).toBeUndefined();
  });

  test("the first token of a metaspace loses all its marks, if any is prepended", () => {
    const decoder = (scheme: string) => ({
      type: "Metaspace",
      replacement: "▁",
      prepend_scheme: scheme,
    });
    const make = (scheme: string) => pieces(null, ["▁▁", "a"], { decoder: decoder(scheme) });
    expect(make("always").decode([0, 1, 0])).toBe("a  ");
    expect(make("never").decode([0, 1, 0])).toBe("  a  ");
  });

  test("spaces before punctuation stay, whatever the configuration says", () => {
    const vocab = { a: 0, " ": 1, ".": 2 };
    const config = { clean_up_tokenization_spaces: true };
    const tokenizer = parseTokenizer(
      { model: { type: "BPE", vocab, merges: [] }, decoder: { type: "Fuse" } },
      config,
    );
    expect(tokenizer.decode([0, 1, 2])).toBe("a .");
  });

  test("special tokens are those that tokenizer.json calls so", () => {
    const added = [
      { id: 1, content: "<a>", special: true },
      { id: 2, content: "<b>", special: false },
    ];
    const tokenizer = pieces(null, ["x"], { added_tokens: added, decoder: { type: "Fuse" } });
    expect(tokenizer.decode([1, 0, 2])).toBe("<a>x<b>");
    expect(tokenizer.decode([1, 0, 2], { skipSpecialTokens: true })).toBe("x<b>");
    expect([0, 1, 2].map((id) => tokenizer.isSpecial(id))).toEqual([false, true, false]);
  });
});
