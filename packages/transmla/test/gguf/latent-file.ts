// Latent models of random weights as GGUF files that this library writes.
import { blobFolder, type Folder } from "../../src/checkpoint/folder.ts";
import type { GgufWritableType } from "../../src/checkpoint/gguf/types.ts";
import { memoryOutput } from "../../src/checkpoint/output.ts";
import { convertCheckpoint } from "../../src/convert/convert.ts";
import { written } from "../checkpoint/files.ts";
import type { TinyModel } from "../spec/inputs/models.ts";

const byteLevel = {
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: true,
};

/** A tokenizer of as many letters as there are tokens. */
const tokenizer = {
  version: "1.0",
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: byteLevel,
  post_processor: null,
  decoder: byteLevel,
  model: {
    type: "BPE",
    vocab: Object.fromEntries(
      Array.from({ length: 60 }, (_, id) => [String.fromCharCode(33 + id), id]),
    ),
    merges: [],
  },
};

/** The model as a Hugging Face folder. */
export async function latentFolder({ json, tensors }: TinyModel): Promise<Folder> {
  const filled = [...tensors].map(([name, { shape, data }]) => {
    return { name, dtype: "F32" as const, shape, values: data };
  });
  const text = (value: object): Blob => new Blob([JSON.stringify(value)]);
  return blobFolder(
    new Map([
      ...(await written(filled)),
      ["config.json", text(json)],
      ["tokenizer.json", text(tokenizer)],
    ]),
  );
}

/** A folder with the model as `model.gguf`. */
export async function asGguf(model: TinyModel, gguf: GgufWritableType): Promise<Folder> {
  const output = memoryOutput();
  await convertCheckpoint(await latentFolder(model), output, { method: "none", gguf });
  return blobFolder(output.files);
}
