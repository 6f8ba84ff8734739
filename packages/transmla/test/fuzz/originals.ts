// Files that are right, to be damaged: those of the bundled model, small ones, and golden data where it is there.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { fc } from "@fast-check/vitest";

import { asGguf } from "../gguf/latent-file.ts";
import { huggingFaceFolder, ggufContent } from "../gguf/small-model.ts";
import { ggufBytes } from "../gguf/writer.ts";
import { shared } from "../shared.ts";
import { latentModel } from "../spec/inputs/models.ts";
import { encode, type Damage } from "./bytes.ts";
import type { Files } from "./harness.ts";
import type { JsonDamage } from "./json.ts";

const bundled = join(import.meta.dirname, "../../models/tiny-shakespeare");
const fixtures = join(shared, "fixtures");

/** A file as bytes of its own: slices of a `Buffer` share its memory. */
function read(path: string): Uint8Array {
  return new Uint8Array(readFileSync(path));
}

/** Some files of a folder. */
function readFiles(folder: string, wanted: RegExp): Files {
  const names = readdirSync(folder).filter((name) => wanted.test(name));
  return Object.fromEntries(names.map((name) => [name, read(join(folder, name))]));
}

const goldenFolders = (kind: string): string[] =>
  existsSync(fixtures)
    ? readdirSync(join(fixtures, kind)).map((name) => join(fixtures, kind, name))
    : [];

async function smallFiles(model: Parameters<typeof huggingFaceFolder>[0]): Promise<Files> {
  const folder = await huggingFaceFolder(model);
  const files: Record<string, Uint8Array> = {};
  for (const name of ["config.json", "model.safetensors"]) {
    const file = await folder.open(name);
    files[name] = await file.read(0, file.size);
  }
  return files;
}

const small: readonly Files[] = [
  await smallFiles({ architecture: "llama", biased: true, tied: false }),
  await smallFiles({ architecture: "qwen2", biased: false, tied: true }),
];

/** Configurations with their weights. The bundled ones are left out: they are large, and a LLaMA like others. */
export const models: readonly Files[] = [
  ...small,
  ...goldenFolders("models").map((folder) =>
    readFiles(folder, /^(config.*\.json|model.*\.(safetensors|index\.json))$/),
  ),
];

const everyComponent = {
  version: "1.0",
  added_tokens: [{ id: 0, content: "<s>", special: true, normalized: false, single_word: false }],
  normalizer: {
    type: "Sequence",
    normalizers: [
      { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, lowercase: false },
      { type: "Strip", strip_left: true, strip_right: false },
      { type: "Replace", pattern: { Regex: "a+" }, content: "a" },
      { type: "Prepend", prepend: "b" },
      { type: "Precompiled", precompiled_charsmap: "" },
    ],
  },
  pre_tokenizer: {
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern: { String: " " }, behavior: "MergedWithNext", invert: false },
      { type: "Digits", individual_digits: true },
      { type: "Punctuation", behavior: "Isolated" },
      { type: "FixedLength", length: 5 },
      { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: true },
    ],
  },
  post_processor: {
    type: "Sequence",
    processors: [
      { type: "RobertaProcessing", sep: ["<s>", 0], cls: ["<s>", 0] },
      {
        type: "TemplateProcessing",
        single: [
          { SpecialToken: { id: "<s>", type_id: 0 } },
          { Sequence: { id: "A", type_id: 0 } },
        ],
        special_tokens: { "<s>": { id: "<s>", ids: [0], tokens: ["<s>"] } },
      },
    ],
  },
  decoder: {
    type: "Sequence",
    decoders: [
      { type: "WordPiece", prefix: "##", cleanup: true },
      { type: "CTC", pad_token: "<s>", word_delimiter_token: "|", cleanup: true },
      { type: "BPEDecoder", suffix: "</w>" },
      { type: "Strip", content: " ", start: 1, stop: 0 },
      { type: "Metaspace", replacement: "▁" },
      { type: "ByteFallback" },
      { type: "Fuse" },
    ],
  },
  model: {
    type: "WordPiece",
    unk_token: "<s>",
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab: { "<s>": 0, a: 1, b: 2, "##a": 3, "##b": 4, "▁": 5 },
  },
};

/** Text files of models: tokenizers, templates, configurations, generation defaults. */
export const textFolders: readonly Files[] = [
  readFiles(bundled, /^(tokenizer|tokenizer_config|config|generation_config)\.json$/),
  {
    "tokenizer.json": encode(JSON.stringify(everyComponent)),
    "tokenizer_config.json": encode(
      JSON.stringify({
        bos_token: { content: "<s>", special: true },
        eos_token: "<s>",
        chat_template: [{ name: "default", template: "{{ messages[0].content }}" }],
      }),
    ),
    "generation_config.json": encode(
      JSON.stringify({
        do_sample: true,
        temperature: 0.6,
        top_k: 20,
        top_p: 0.9,
        min_p: 0.05,
        repetition_penalty: 1.1,
        eos_token_id: [1, 2],
      }),
    ),
  },
  ...goldenFolders("tokenizers").map((folder) => readFiles(folder, /^(tokenizer|chat_template).*/)),
];

/** A latent model as this library writes it, of several types of tensors. */
async function latentGguf(): Promise<Uint8Array> {
  const sizes = { nopeDim: 32, ropeDim: 8, valueDim: 16, latentRank: 48, queryRank: null };
  const rest = { hidden: 32, heads: 2, biased: false, layers: 1, tokens: 1, seed: 1 };
  const folder = await asGguf(latentModel({ ...sizes, ...rest }), "Q8_0");
  const file = await folder.open("model.gguf");
  return file.read(0, file.size);
}

/** GGUF files. */
export const ggufFiles: readonly Uint8Array[] = [
  await latentGguf(),
  ggufBytes(ggufContent({ architecture: "llama", biased: true, tied: false })),
  ggufBytes(ggufContent({ architecture: "qwen2", biased: true, tied: true })),
  ...goldenFolders("gguf")
    .filter((path) => path.endsWith(".gguf"))
    .map(read),
];

/** The bundled weights, which have the only large header. */
export const bundledWeights: Uint8Array = read(join(bundled, "model.safetensors"));

/** One of the folders with one file changed, with parts of the file of that name in another folder. */
export function damageFile(
  folders: readonly Files[],
  name: string,
  change: fc.Arbitrary<Damage>,
): fc.Arbitrary<Files> {
  const having = folders.filter((files) => Object.hasOwn(files, name));
  const one = fc.constantFrom(...having);
  return fc
    .tuple(one, one, change)
    .map(([files, other, damage]) => ({ ...files, [name]: damage(files[name]!, other[name]!) }));
}

/** A change of JSON as a change of bytes. */
export const asBytes = (change: fc.Arbitrary<JsonDamage>): fc.Arbitrary<Damage> =>
  change.map(
    (damage): Damage =>
      (bytes, other) =>
        encode(damage(decode(bytes), decode(other))),
  );

/** Text that is known to be UTF-8. */
export function decode(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}
