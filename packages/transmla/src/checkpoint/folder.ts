import { ArgumentError, fail, FormatError, TransmlaError } from "@transmla/core";

import { decodeUtf8, parseJson, show } from "./json.ts";
import type { TensorSource } from "./tensors.ts";

/** A file or folder could not be found, read or written. The message names it and the system's reason. */
export class FileError extends TransmlaError {}

/** A file that is read by byte ranges. */
export interface ByteSource {
  /** What errors call the file: its path. */
  readonly name: string;
  /** The number of bytes. */
  readonly size: number;
  /**
   * Reads a range. The caller owns the bytes.
   *
   * @param begin - The first byte.
   * @param end - One past the last byte, at most `size`.
   */
  read(begin: number, end: number): Promise<Uint8Array>;
  /** Lets go of the file. Reading afterwards is an error. */
  close(): Promise<void>;
}

/** The files of one model, wherever they are. */
export interface Folder {
  /** What errors call the folder. */
  readonly path: string;
  /**
   * Whether there is a file of that name.
   *
   * @param name - A plain file name.
   */
  exists(name: string): Promise<boolean>;
  /**
   * Opens a file; the caller closes it.
   *
   * @param name - A plain file name.
   * @throws FileError when it is not there or cannot be opened.
   */
  open(name: string): Promise<ByteSource>;
  /** Opens the weights, where they are not in safetensors files of this folder; the caller closes them. */
  readonly openTensors?: () => Promise<TensorSource>;
  /** The tokenizer as metadata of a GGUF file, where it is that: stored values by key. */
  readonly ggufTokenizer?: () => Promise<ReadonlyMap<string, Uint8Array>>;
}

/**
 * Whether a name stays inside its folder on every system: no separators, drives, control characters or `..`.
 *
 * @param name - A name of unknown origin.
 */
export function isFileName(name: string): boolean {
  // 255 bytes is the limit of common file systems; a name has at least one byte a character.
  return name.length <= 255 && /^[^/\\:\p{Cc}]+$/u.test(name) && !/^\.{1,2}$/.test(name);
}

/**
 * Throws unless a name is a plain file name.
 *
 * @param operation - What errors name as the operation.
 * @param name - A name of unknown origin.
 * @throws ArgumentError when {@link isFileName} refuses the name.
 */
export function checkFileName(operation: string, name: string): void {
  if (!isFileName(name)) fail(ArgumentError, operation, `${show(name)} is not a plain file name`);
}

/**
 * Throws unless a range lies inside a file.
 *
 * @param file - The file that is read.
 * @param begin - The first byte.
 * @param end - One past the last byte.
 * @throws ArgumentError when the range is reversed, fractional or beyond the file.
 */
export function checkRange(
  file: Pick<ByteSource, "name" | "size">,
  begin: number,
  end: number,
): void {
  const inside = Number.isInteger(begin) && Number.isInteger(end) && 0 <= begin && end <= file.size;
  if (!inside || begin > end) {
    fail(ArgumentError, "read", `${begin}..${end} is not inside ${file.size} bytes`, file.name);
  }
}

/**
 * Reads a whole text file. A leading byte order mark is dropped.
 *
 * @param folder - Where the file is.
 * @param name - A plain file name.
 * @param maxBytes - The largest file to accept; a larger one is not read at all.
 * @throws FormatError when the file is too large or is not UTF-8.
 */
export async function readText(folder: Folder, name: string, maxBytes: number): Promise<string> {
  return (await readFile("readText", folder, name, maxBytes)).text;
}

/**
 * Reads and parses a JSON file.
 *
 * @param folder - Where the file is.
 * @param name - A plain file name.
 * @param maxBytes - The largest file to accept; a larger one is not read at all.
 * @param uniqueKeys - Whether an object that has a key twice is refused; otherwise the last one counts, as in Python.
 * @returns What the text says; its form is for the caller to check.
 * @throws FormatError when the file is too large, is not UTF-8, or is not JSON of moderate depth and size.
 */
export async function readJson(
  folder: Folder,
  name: string,
  maxBytes: number,
  uniqueKeys = false,
): Promise<unknown> {
  const { text, path } = await readFile("readJson", folder, name, maxBytes);
  return parseJson(text, "readJson", path, { uniqueKeys });
}

async function readFile(
  operation: string,
  folder: Folder,
  name: string,
  maxBytes: number,
): Promise<{ readonly text: string; readonly path: string }> {
  const file = await folder.open(name);
  try {
    if (file.size > maxBytes) {
      const problem = `${file.size} bytes are more than the limit of ${maxBytes}`;
      fail(FormatError, operation, problem, file.name);
    }
    const text = decodeUtf8(await file.read(0, file.size), operation, file.name);
    return { text: text.startsWith("\uFEFF") ? text.slice(1) : text, path: file.name };
  } finally {
    await file.close();
  }
}

/**
 * The files that a user picked or a program fetched, as a folder.
 *
 * @param files - A `Blob` or `File` by its name.
 * @param path - What errors call the folder.
 *
 * @example
 * ```ts
 * import { blobFolder, readJson } from "transmla";
 * const folder = blobFolder(new Map([["config.json", new Blob(['{"model_type": "llama"}'])]]));
 * console.log(await readJson(folder, "config.json", 1000)); // => { model_type: "llama" }
 * ```
 */
export function blobFolder(files: ReadonlyMap<string, Blob>, path = "files"): Folder {
  return {
    path,
    exists: async (name) => files.has(name),
    open: async (name) => {
      const blob = files.get(name);
      if (blob === undefined) fail(FileError, "open", "no such file", `${path}/${name}`);
      return blobSource(blob, `${path}/${name}`);
    },
  };
}

function blobSource(blob: Blob, name: string): ByteSource {
  return {
    name,
    size: blob.size,
    read: async (begin, end) => {
      checkRange({ name, size: blob.size }, begin, end);
      try {
        return new Uint8Array(await blob.slice(begin, end).arrayBuffer());
      } catch (error) {
        // A picked file can be changed or deleted while the page holds it.
        fail(FileError, "read", (error as Error).message, name);
      }
    },
    close: async () => {},
  };
}
