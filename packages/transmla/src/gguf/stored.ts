import { blockBytes, byteLength, fromF16Bits, isBlock, type DType } from "@transmla/core";

import type { ByteSource } from "../checkpoint/folder.ts";
import type { GgufTensor } from "../checkpoint/gguf/header.ts";
import { CHUNK_ELEMENTS, elementCount, type StoredElements } from "../checkpoint/tensors.ts";

/** The types of GGUF that tensors of core hold exactly, in as many bits, and what they are called there. */
const kept: Readonly<Record<string, DType>> = { F16: "f16", BF16: "bf16", Q8_0: "q8", Q4_0: "q4" };

/**
 * What core calls the form in which a tensor is stored.
 *
 * @param tensor - Which one.
 * @returns `undefined` for a type that core does not have; its values are f32.
 */
export function keptDType({ type }: GgufTensor): DType | undefined {
  return Object.hasOwn(kept, type.name) ? kept[type.name] : undefined;
}

/**
 * Reads a tensor in the form in which it is stored.
 *
 * @param file - The file whose header described the tensor.
 * @param tensor - Which one.
 * @returns `undefined` for a type that core does not have.
 */
export async function readGgufStored(
  file: ByteSource,
  tensor: GgufTensor,
): Promise<StoredElements | undefined> {
  const { type, begin, shape } = tensor;
  const dtype = keptDType(tensor);
  if (!dtype) return undefined;
  const count = elementCount(shape);
  const bytes = new Uint8Array(byteLength(dtype, count));
  const stored = (values: number): number => (values / type.blockValues) * type.blockBytes;
  for (let at = 0; at < count; at += CHUNK_ELEMENTS) {
    const end = Math.min(at + CHUNK_ELEMENTS, count);
    const piece = await file.read(begin + stored(at), begin + stored(end));
    const to = bytes.subarray(byteLength(dtype, at), byteLength(dtype, end));
    if (isBlock(dtype)) widenScales(piece, to, blockBytes[dtype]);
    else to.set(piece);
  }
  return { dtype, bytes };
}

/** Blocks with a scale in f16 as blocks with one in f32. */
function widenScales(from: Uint8Array, to: Uint8Array, size: number): void {
  const source = new DataView(from.buffer, from.byteOffset, from.byteLength);
  const target = new DataView(to.buffer, to.byteOffset, to.byteLength);
  for (let at = 0, out = 0; out < to.length; at += size - 2, out += size) {
    target.setFloat32(out, fromF16Bits(source.getUint16(at, true)), true);
    to.set(from.subarray(at + 2, at + size - 2), out + 4);
  }
}
