import { describe, expect, test } from "vitest";

import { parseTokenizer } from "../../src/text/tokenizer.ts";

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
      'FormatError: t.json: post_processor.single must be a list of {"SpecialToken": {"id": text}} and ' +
        '{"Sequence": {"id": text}}, found 5',
    ],
    [
      {
        model,
        post_processor: {
          type: "TemplateProcessing",
          single: [{ SpecialToken: { id: "<s>", type_id: 0 } }],
        },
      },
      "FormatError: t.json: post_processor adds a token that the vocabulary does not have",
    ],
    [
      { model, decoder: { type: "Sequence", decoders: [null] } },
      "FormatError: t.json: decoder.decoders[0] must be an object, found null",
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
