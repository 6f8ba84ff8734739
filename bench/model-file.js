// A GGUF file with its matrices stored in another type, for this library and llama.cpp to read alike. Formats are not
// part of the public API, so these come from the build.
import { existsSync, mkdirSync, renameSync } from "node:fs";
import { basename, dirname, join } from "node:path";

import { diskFolder, diskSink } from "../packages/transmla/dist/checkpoint/disk.js";
import { readGguf, readGgufNumbers } from "../packages/transmla/dist/checkpoint/gguf/file.js";
import { createGguf } from "../packages/transmla/dist/checkpoint/gguf/write.js";

/**
 * The path of the file, which is made when it is needed first.
 *
 * @param {string | undefined} source A GGUF file.
 * @param {"BF16" | "Q8_0"} type Of its matrices.
 */
export async function storedAs(source, type) {
  const folder = join(import.meta.dirname, "models");
  const path = join(folder, `${type}.gguf`);
  if (existsSync(path)) return path;
  if (!source) throw new Error("no model to store: give --model FILE, a GGUF file");
  mkdirSync(folder, { recursive: true });
  const file = await diskFolder(dirname(source)).open(basename(source));
  const { places, tensors } = await readGguf(file);
  const metadata = new Map();
  for (const [key, [begin, end]] of places) metadata.set(key, await file.read(begin, end));
  const plan = [...tensors.values()].map(({ name, shape }) => {
    return { name, shape, type: shape.length > 1 ? type : "F32" };
  });
  const partial = `${path}.partial`;
  const writer = await createGguf(await diskSink(partial, "w"), metadata, plan);
  for (const tensor of tensors.values()) {
    await writer.write(tensor.name, readGgufNumbers(file, tensor));
  }
  await writer.close();
  await file.close();
  renameSync(partial, path);
  return path;
}
