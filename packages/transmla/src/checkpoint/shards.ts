import { fail, FormatError, UnsupportedError } from "@transmla/core";

import { FileError, isFileName, readJson, type ByteSource, type Folder } from "./folder.ts";
import type { StoredTensor } from "./header.ts";
import { isObject, show } from "./json.ts";
import { readHeader, readTensor, readValues } from "./safetensors.ts";
import { tensorSource, type TensorSource } from "./tensors.ts";

/** The file that holds all tensors of a model that fits one file. */
export const SINGLE_FILE = "model.safetensors";

/** The file that says which shard holds which tensor. */
export const INDEX_FILE = "model.safetensors.index.json";

/** The largest index known has 60 MB, for 497,000 tensors. */
const MAX_INDEX_BYTES = 100_000_000;

/** The largest models come in a few hundred; each is opened once to read its header. */
export const MAX_SHARDS = 10_000;

/** Weights that only unpickling could read. */
const pickles = [
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
  "consolidated.00.pth",
  "consolidated.pth",
] as const;

/** A tensor, the shard that holds it, and the size of that shard when its header was read. */
interface ShardedTensor extends StoredTensor {
  readonly file: string;
  readonly fileBytes: number;
}

/**
 * Opens the weights of a model: `model.safetensors`, or the shards that `model.safetensors.index.json` names. Where both
 * are present the single file counts, as in Transformers; other files of the folder are never looked at. All headers are
 * read and checked against the index; values are read on demand, and no file stays open in between. A folder that opens its
 * weights itself does so.
 *
 * @param folder - Where the files are.
 * @throws FormatError when there are no weights, or index and shards do not agree or break a rule of their format.
 * @throws UnsupportedError when there are only PyTorch pickles, which run code when they are read.
 */
export async function openCheckpoint(folder: Folder): Promise<TensorSource> {
  if (folder.openTensors) return folder.openTensors();
  const tensors = await locate(folder);
  const opened = async (tensor: ShardedTensor): Promise<ByteSource> => {
    const file = await folder.open(tensor.file);
    if (file.size === tensor.fileBytes) return file;
    await file.close();
    const problem = `changed from ${tensor.fileBytes} to ${file.size} bytes since it was opened`;
    return fail(FileError, "openCheckpoint", problem, file.name);
  };
  return tensorSource(folder.path, tensors, {
    bytes: async (tensor) => {
      const file = await opened(tensor);
      try {
        return await readTensor(file, tensor);
      } finally {
        await file.close();
      }
    },
    pieces: async function* (tensor) {
      const file = await opened(tensor);
      try {
        yield* readValues(file, tensor);
      } finally {
        await file.close();
      }
    },
    close: async () => {},
  });
}

async function locate(folder: Folder): Promise<ReadonlyMap<string, ShardedTensor>> {
  if (await folder.exists(SINGLE_FILE)) return readShard(folder, SINGLE_FILE);
  if (!(await folder.exists(INDEX_FILE))) return refuseMissing(folder);
  const index = await readIndex(folder);
  const tensors = new Map<string, ShardedTensor>();
  for (const shard of new Set(index.values())) {
    for (const [name, tensor] of await readShard(folder, shard)) {
      const planned = index.get(name);
      if (planned !== shard) {
        const instead = planned === undefined ? "does not name it" : `places it in ${planned}`;
        refuse(folder, `tensor ${show(name)} is in ${shard}, but the index ${instead}`);
      }
      tensors.set(name, tensor);
    }
  }
  for (const [name, shard] of index) {
    if (!tensors.has(name)) {
      refuse(folder, `tensor ${show(name)} is not in ${shard}, where the index places it`);
    }
  }
  return tensors;
}

function refuse(folder: Folder, problem: string): never {
  fail(FormatError, "openCheckpoint", problem, `${folder.path}/${INDEX_FILE}`);
}

async function refuseMissing(folder: Folder): Promise<never> {
  for (const name of pickles) {
    if (!(await folder.exists(name))) continue;
    const problem = `${name} is a PyTorch pickle, which runs code when it is read`;
    const wayOut = "save it with Transformers: save_pretrained(folder, safe_serialization=True)";
    fail(UnsupportedError, "openCheckpoint", `${problem}; ${wayOut}`, folder.path);
  }
  const problem = `there is neither ${SINGLE_FILE} nor ${INDEX_FILE}`;
  fail(FormatError, "openCheckpoint", problem, folder.path);
}

async function readShard(folder: Folder, name: string): Promise<Map<string, ShardedTensor>> {
  const file = await folder.open(name);
  try {
    const tensors = new Map<string, ShardedTensor>();
    for (const [key, tensor] of await readHeader(file)) {
      tensors.set(key, { ...tensor, file: name, fileBytes: file.size });
    }
    return tensors;
  } finally {
    await file.close();
  }
}

/**
 * Which shard holds which tensor, by the index alone.
 *
 * @param folder - Where {@link INDEX_FILE} is.
 * @returns The name of a `.safetensors` file by the name of a tensor.
 * @throws FormatError when it breaks a rule of its format.
 */
export async function readIndex(folder: Folder): Promise<ReadonlyMap<string, string>> {
  const index = await readJson(folder, INDEX_FILE, MAX_INDEX_BYTES, true);
  const map = isObject(index) ? index["weight_map"] : undefined;
  if (!isObject(map)) refuse(folder, `weight_map is ${show(map)}, not an object`);
  const shards = new Map<string, string>();
  for (const [tensor, shard] of Object.entries(map)) {
    if (typeof shard !== "string" || !isFileName(shard) || !shard.endsWith(".safetensors")) {
      const problem = `places tensor ${show(tensor)} in ${show(shard)}`;
      refuse(folder, `weight_map ${problem}, which is not the name of a .safetensors file`);
    }
    shards.set(tensor, shard);
  }
  const count = new Set(shards.values()).size;
  if (count > MAX_SHARDS) refuse(folder, `${count} shards are above the limit of ${MAX_SHARDS}`);
  return shards;
}
