import { fail, FormatError } from "@transmla/core";

import type { ByteSource } from "./folder.ts";
import { LENGTH_BYTES, parseHeader, parseLength, type StoredTensor } from "./header.ts";
import { readPieces, tensorSource, type TensorSource } from "./tensors.ts";

/**
 * Reads and checks what a safetensors file contains, without its values.
 *
 * @param file - The file; it stays open.
 * @returns The tensors by name.
 * @throws FormatError when the file breaks a rule of the format.
 * @throws UnsupportedError when a tensor has an element type that this library does not read.
 */
export async function readHeader(file: ByteSource): Promise<ReadonlyMap<string, StoredTensor>> {
  if (file.size < LENGTH_BYTES) {
    const problem = `${file.size} bytes are fewer than the ${LENGTH_BYTES} of the header length`;
    fail(FormatError, "openSafetensors", problem, file.name);
  }
  const length = parseLength(await file.read(0, LENGTH_BYTES), file.size, file.name);
  const header = await file.read(LENGTH_BYTES, LENGTH_BYTES + length);
  return parseHeader(header, file.size, file.name);
}

/**
 * Reads the stored bytes of a tensor.
 *
 * @param file - The file whose header described the tensor.
 * @param tensor - Which one.
 */
export async function readTensor(file: ByteSource, tensor: StoredTensor): Promise<Uint8Array> {
  return file.read(tensor.begin, tensor.end);
}

/**
 * Reads the values of a tensor a piece at a time, widened to f64.
 *
 * @param file - The file whose header described the tensor.
 * @param tensor - Which one.
 */
export function readValues(file: ByteSource, tensor: StoredTensor): AsyncGenerator<Float64Array> {
  return readPieces(tensor, file.name, async (begin, end) =>
    file.read(tensor.begin + begin, tensor.begin + end),
  );
}

/**
 * Opens one safetensors file (https://github.com/huggingface/safetensors). Its header is checked as strictly as by the
 * reference implementation; values are read on demand.
 *
 * @param file - The file. The source owns it from here on; when opening fails, it is closed.
 * @throws FormatError when the file breaks a rule of the format.
 * @throws UnsupportedError when a tensor has an element type that this library does not read.
 */
export async function openSafetensors(file: ByteSource): Promise<TensorSource> {
  try {
    return tensorSource(file.name, await readHeader(file), {
      bytes: async (tensor) => readTensor(file, tensor),
      pieces: (tensor) => readValues(file, tensor),
      close: async () => file.close(),
    });
  } catch (error) {
    await file.close();
    throw error;
  }
}
