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

describe("files that are refused", () => {
  const model = { type: "BPE", vocab: { a: 0 }, merges: [] };
  const message = (json: unknown, config: unknown = null): string => {
    try {
      parseTokenizer(json, config, "t.json");
    } catch (error) {
      return String(error);
    }
    return "accepted";
  };

  test.each([
    [null, "FormatError: t.json: the file must be a JSON object"],
    [{}, "FormatError: t.json: model must be an object, found undefined"],
    [
      { model: { type: "Markov" } },
      'UnsupportedError: t.json: model.type = "Markov" is not supported; known are BPE, Unigram, WordPiece',
    ],
    [
      { model: { ...model, vocab: [] } },
      "FormatError: t.json: model.vocab must be an object from tokens to ids, found []",
    ],
    [
      { model: { ...model, vocab: { a: 1e9 } } },
      'FormatError: t.json: model.vocab["a"] must be an integer from 0 to 4194303, found 1000000000',
    ],
    [
      { model: { ...model, merges: ["a b", "ab"] } },
      'FormatError: t.json: model.merges[1] must be a pair of tokens, found "ab"',
    ],
    [
      { model: { ...model, merges: [["a", "b"], "a b"] } },
      'FormatError: t.json: model.merges[1] must be a pair of tokens, found "a b"',
    ],
    [
      { model: { ...model, continuing_subword_prefix: "##" } },
      'UnsupportedError: t.json: model.continuing_subword_prefix = "##" is not supported',
    ],
    [
      { model: { type: "Unigram", vocab: [["a", "0"]] } },
      'FormatError: t.json: model.vocab[0] must be [token, score], found ["a","0"]',
    ],
    [
      { model, normalizer: { type: "Nmt" } },
      'UnsupportedError: t.json: normalizer.type = "Nmt" is not supported; known are BertNormalizer, Lowercase, NFC, ' +
        "NFD, NFKC, NFKD, Precompiled, Prepend, Replace, Sequence, Strip, StripAccents",
    ],
    [
      {
        model,
        decoder: { type: "Sequence", decoders: [{ type: "Fuse" }, { type: "constructor" }] },
      },
      'UnsupportedError: t.json: decoder.decoders[1].type = "constructor" is not supported; known are BPEDecoder, ' +
        "ByteFallback, ByteLevel, CTC, Fuse, Metaspace, Replace, Sequence, Strip, WordPiece",
    ],
    [
      { model, pre_tokenizer: { type: "Sequence" } },
      "FormatError: t.json: pre_tokenizer.pretokenizers must be a list, found undefined",
    ],
    [
      { model, pre_tokenizer: { type: "Split", pattern: { String: " " }, behavior: "Merged" } },
      'UnsupportedError: t.json: pre_tokenizer.behavior = "Merged" is not supported; known are Removed, Isolated, ' +
        "MergedWithPrevious, MergedWithNext, Contiguous",
    ],
    [
      {
        model,
        pre_tokenizer: {
          type: "Split",
          pattern: { String: " " },
          behavior: "Contiguous",
          invert: true,
        },
      },
      'UnsupportedError: t.json: pre_tokenizer.behavior = "Contiguous" with invert = true is not supported; known are ' +
        "Removed, Isolated",
    ],
    [
      { model, pre_tokenizer: { type: "Split", pattern: " ", behavior: "Isolated" } },
      'UnsupportedError: t.json: pre_tokenizer.pattern = " " is not {"Regex": text} or {"String": text}',
    ],
    [
      { model, pre_tokenizer: { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated" } },
      "FormatError: t.json: Invalid regular expression: /(/gu: Unterminated group",
    ],
    [
      { model, post_processor: { type: "TemplateProcessing", single: 5 } },
      "FormatError: t.json: type is not iterable",
    ],
    [{ model, added_tokens: {} }, "FormatError: t.json: added_tokens must be a list, found {}"],
    [
      { model, added_tokens: [{ id: 1 }] },
      'FormatError: t.json: added_tokens[0] must be an object with a content, found {"id":1}',
    ],
    [
      { model, added_tokens: [{ id: -1, content: "x" }] },
      "FormatError: t.json: added_tokens[0].id must be an integer from 0 to 4194303, found -1",
    ],
    [
      { model, added_tokens: [{ id: 1, content: "x", single_word: true }] },
      'UnsupportedError: t.json: added_tokens[0].single_word = true is not supported ("x")',
    ],
  ])("%#", (json, expected) => {
    expect(message(json)).toBe(expected);
  });

  test("sequences that nest without end", () => {
    let decoder: object = { type: "Fuse" };
    for (let i = 0; i < 20; i++) decoder = { type: "Sequence", decoders: [decoder] };
    expect(message({ model, decoder })).toMatch(/decoders\[0\] nests deeper than 16 sequences$/);
  });

  test("roles that are no tokens", () => {
    expect(message({ model }, 5)).toBe(
      "FormatError: tokenizer_config.json: the file must be a JSON object",
    );
    expect(message({ model }, { bos_token: 5 })).toBe(
      "FormatError: tokenizer_config.json: bos_token must be a text or an object with a content, found 5",
    );
    expect(message({ model }, { bos_token: { content: "a" }, eos_token: null })).toBe("accepted");
  });

  test("a character without a token, where nothing stands for unknown ones", () => {
    const vocab = [
      ["a", 0],
      ["b", -1],
    ];
    const tokenizer = parseTokenizer(
      { model: { type: "WordPiece", vocab: { a: 0 }, unk_token: "?" } },
      null,
    );
    expect(() => tokenizer.encode("b")).toThrow(
      "encode: the text has a character without a token, and there is no token for unknown ones (tokenizer.json)",
    );
    expect(parseTokenizer({ model: { vocab, unk_id: 1 } }, null).encode("ac")).toEqual([0, 1]);
  });
});
