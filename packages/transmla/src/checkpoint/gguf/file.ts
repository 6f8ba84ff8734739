import { BackendError, fail } from "@transmla/core";

import type { ByteSource } from "../folder.ts";
import { show } from "../json.ts";
import { CHUNK_ELEMENTS, elementCount } from "../tensors.ts";
import { Cursor, MoreBytesNeeded } from "./cursor.ts";
import { parseGgufHeader, type GgufHeader, type GgufTensor } from "./header.ts";

/** What is read first. Headers of small vocabularies fit; others are read again, twice as far. */
const FIRST_BYTES = 2 ** 20;

/** The header of a vocabulary of 2^18 tokens has about 15 MB. */
const MAX_HEADER_BYTES = 100_000_000;

/**
 * Reads and checks the header of a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and
 * 3, little-endian: the metadata, and where each tensor is. No values are read.
 *
 * @param file - The file; it stays open.
 * @throws FormatError when the file breaks a rule of the format or is beyond a limit.
 * @throws UnsupportedError for another version of the format, and for a tensor type that this library does not read.
 */
export async function readGguf(file: ByteSource): Promise<GgufHeader> {
  let length = Math.min(FIRST_BYTES, file.size);
  for (;;) {
    const cursor = new Cursor(await file.read(0, length), file.size, file.name);
    try {
      return parseGgufHeader(cursor);
    } catch (error) {
      if (!(error instanceof MoreBytesNeeded)) throw error;
      if (error.bytes > MAX_HEADER_BYTES) {
        cursor.refuse(`the header is longer than the limit of ${MAX_HEADER_BYTES} bytes`);
      }
      length = Math.min(Math.max(error.bytes, 2 * length), file.size, MAX_HEADER_BYTES);
    }
  }
}

/**
 * Reads the values of a tensor in row-major order, rounded once to f32. The caller owns them.
 *
 * @param file - The file whose header described the tensor.
 * @param tensor - Which one.
 */
export async function readGgufFloats(file: ByteSource, tensor: GgufTensor): Promise<Float32Array> {
  const count = elementCount(tensor.shape);
  const out = allocateOr(count, () =>
    fail(
      BackendError,
      "readGguf",
      `no memory for ${count} values of ${show(tensor.name)}`,
      file.name,
    ),
  );
  for await (const [at, blocks] of readBlocks(file, tensor)) {
    const end = Math.min(at + CHUNK_ELEMENTS, count);
    tensor.type.dequantize(blocks, out.subarray(at, end));
  }
  return out;
}

/**
 * Reads the values of a tensor in row-major order a piece at a time, exactly as ggml's formulas define them.
 *
 * @param file - The file whose header described the tensor.
 * @param tensor - Which one.
 */
export async function* readGgufNumbers(
  file: ByteSource,
  tensor: GgufTensor,
): AsyncGenerator<Float64Array> {
  const { type } = tensor;
  for await (const [, blocks] of readBlocks(file, tensor)) {
    const piece = new Float64Array((blocks.length / type.blockBytes) * type.blockValues);
    type.dequantize(blocks, piece);
    yield piece;
  }
}

/** The stored blocks of a tensor a piece at a time, each with the index of its first value. */
async function* readBlocks(
  file: ByteSource,
  { type, begin, shape }: GgufTensor,
): AsyncGenerator<readonly [at: number, blocks: Uint8Array]> {
  const count = elementCount(shape);
  const bytesOf = (values: number): number => (values / type.blockValues) * type.blockBytes;
  for (let at = 0; at < count; at += CHUNK_ELEMENTS) {
    const end = Math.min(at + CHUNK_ELEMENTS, count);
    yield [at, await file.read(begin + bytesOf(at), begin + bytesOf(end))];
  }
}

function allocateOr(count: number, refuse: () => never): Float32Array {
  try {
    return new Float32Array(count);
  } catch {
    return refuse();
  }
}
