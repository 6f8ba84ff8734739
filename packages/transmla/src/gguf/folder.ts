import { fail, FormatError } from "@transmla/core";

import { blobFolder, FileError, type ByteSource, type Folder } from "../checkpoint/folder.ts";
import { readGguf, readGgufNumbers } from "../checkpoint/gguf/file.ts";
import type { GgufHeader } from "../checkpoint/gguf/header.ts";
import { collect } from "../checkpoint/tensors.ts";
import { ggufArchitecture } from "./architectures.ts";
import { ggufConfig, ggufFields } from "./config.ts";
import { ggufWeights, ROPE_FACTORS } from "./tensors.ts";
import {
  ggufEndTokens,
  ggufTokenizer,
  ggufTokenizerConfig,
  hasGgufTokenizer,
} from "./tokenizer.ts";

/** The widest rotation known has 256 pairs; a vector of rotary factors is read as a whole. */
const MAX_ROPE_FACTORS = 2 ** 16;

/**
 * A GGUF file of LLaMA, Qwen2 or dense DeepSeek architecture (Mistral is stored as LLaMA) as the Hugging Face folder that it was made
 * from: `config.json`, tokenizer, chat template and end tokens come from its metadata, and the weights are dequantized,
 * under Hugging Face names. The file is not kept open in between.
 *
 * @param folder - Where the file is.
 * @param name - Its name.
 * @throws FormatError when the file breaks a rule of the format.
 * @throws UnsupportedError for an architecture or tensor type that this library does not run.
 *
 * @example
 * ```ts
 * import { cpuBackend } from "@transmla/backend-cpu";
 * import { blobFolder, ggufFolder, loadModel, type Model } from "transmla";
 * // In a browser, with a file that the user picked.
 * export async function loadPicked(file: File): Promise<Model> {
 *   const folder = await ggufFolder(blobFolder(new Map([[file.name, file]])), file.name);
 *   return loadModel(folder, { backend: await cpuBackend() });
 * }
 * ```
 */
export async function ggufFolder(folder: Folder, name: string): Promise<Folder> {
  const file = await folder.open(name);
  const path = file.name;
  const { size } = file;
  let header: GgufHeader;
  let ropeFactors: readonly number[] | undefined;
  try {
    header = await readGguf(file);
    ropeFactors = await readRopeFactors(file, header);
  } finally {
    await file.close();
  }
  const fields = ggufFields(header, path);
  const architecture = ggufArchitecture(fields, path);
  const config = ggufConfig(header, ropeFactors, path);
  const files = new Map<string, () => object>([["config.json", () => config]]);
  if (hasGgufTokenizer(fields)) {
    files.set("tokenizer.json", () => ggufTokenizer(fields, path));
    files.set("tokenizer_config.json", () => ggufTokenizerConfig(fields));
    files.set("generation_config.json", () => ({ eos_token_id: ggufEndTokens(fields) }));
  }
  const reopen = async (): Promise<ByteSource> => {
    const opened = await folder.open(name);
    if (opened.size === size) return opened;
    await opened.close();
    const problem = `changed from ${size} to ${opened.size} bytes since its header was read`;
    return fail(FileError, "ggufFolder", problem, path);
  };
  return {
    path,
    exists: async (wanted) => files.has(wanted),
    open: async (wanted) => {
      const make = files.get(wanted);
      if (!make) fail(FileError, "open", "no such file", `${path}/${wanted}`);
      const blob = new Blob([JSON.stringify(make())]);
      return blobFolder(new Map([[wanted, blob]]), path).open(wanted);
    },
    ggufTokenizer: async () => {
      const opened = await reopen();
      try {
        const entries = new Map<string, Uint8Array>();
        for (const [key, [begin, end]] of header.places) {
          if (key.startsWith("tokenizer.")) entries.set(key, await opened.read(begin, end));
        }
        return entries;
      } finally {
        await opened.close();
      }
    },
    openTensors: async () => {
      const opened = await reopen();
      try {
        return ggufWeights(header, architecture, Number(config["head_dim"]), opened);
      } catch (error) {
        await opened.close();
        throw error;
      }
    },
  };
}

async function readRopeFactors(
  file: ByteSource,
  { tensors }: GgufHeader,
): Promise<readonly number[] | undefined> {
  const tensor = tensors.get(ROPE_FACTORS);
  if (!tensor) return undefined;
  const [count, ...more] = tensor.shape;
  if (more.length > 0 || count === undefined || count > MAX_ROPE_FACTORS) {
    const problem = `${ROPE_FACTORS} must be a vector of at most ${MAX_ROPE_FACTORS} factors`;
    return fail(FormatError, file.name, `${problem}, found [${tensor.shape.join(",")}]`);
  }
  return [...(await collect(readGgufNumbers(file, tensor), new Float64Array(count)))];
}
