import {
  BLOCK_SIZE,
  blockBytes,
  decodeBlock,
  encodeBlock,
  isBlock,
  type BlockDType,
} from "./blocks.ts";
import { ArgumentError, fail } from "./errors.ts";

/**
 * The element types of tensors. `f16` and `bf16` are stored as their 16 bits; arithmetic is done in f32. `q8` and `q4` are
 * for weights and caches: blocks of 32 elements along the last axis, which is a multiple of 32 long. A block is an f32
 * scale and 32 integers, little-endian: for `q8` 32 bytes, each `element / scale`; for `q4` 16 bytes, each holding
 * `element / scale + 8` of element i in its low and of element i + 16 in its high four bits. With the scale narrowed to
 * f16 these are the blocks `Q8_0` and `Q4_0` of GGUF, which they hold exactly.
 */
export type DType = "f32" | "f16" | "bf16" | "i32" | "u32" | BlockDType;

/** The host arrays that hold tensor elements; `f16` and `bf16` travel as their bits, `q8` and `q4` as their blocks. */
export type HostArray = Float32Array | Int32Array | Uint32Array | Uint16Array | Uint8Array;

/** Bytes of the smallest piece that is stored: an element or a block. */
const unitBytes: Readonly<Record<DType, number>> = {
  f32: 4,
  f16: 2,
  bf16: 2,
  i32: 4,
  u32: 4,
  ...blockBytes,
};

/**
 * Bytes that elements take.
 *
 * @param dtype - What they are.
 * @param elements - How many; those of a block that is not full take a whole one.
 */
export function byteLength(dtype: DType, elements: number): number {
  const units = isBlock(dtype) ? Math.ceil(elements / BLOCK_SIZE) : elements;
  return units * unitBytes[dtype];
}

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** Of two neighbours, which one a number rounds to that f32 put exactly in their middle: 1 up, 0 down, in magnitude. */
const sideOfTie = (x: number, odd: number): number => {
  const beyond = Math.abs(x) - Math.abs(scratchFloat[0]!);
  return beyond === 0 ? odd : Number(beyond > 0);
};

/**
 * The bf16 bits nearest to a number, ties to even. Rounds once, from all 53 bits of the number.
 *
 * @param x - Any number, infinities and NaN included.
 */
export function toBf16Bits(x: number): number {
  scratchFloat[0] = x;
  const bits = scratchBits[0]!;
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40; // NaN stays NaN
  const up = (bits & 0xffff) === 0x8000 ? sideOfTie(x, (bits >>> 16) & 1) : (bits & 0x8000) >>> 15;
  return (bits >>> 16) + up;
}

/**
 * The number that 16 bf16 bits stand for, exactly.
 *
 * @param bits - An integer from 0 to 65535.
 */
export function fromBf16Bits(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratchFloat[0]!;
}

/**
 * The f16 (IEEE binary16) bits nearest to a number, ties to even. Rounds once.
 *
 * @param x - Any number; beyond ±65504 it becomes an infinity.
 */
export function toF16Bits(x: number): number {
  scratchFloat[0] = x;
  const bits = scratchBits[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (Math.abs(x) >= 65520) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    const up =
      (bits & 0x1fff) === 0x1000 ? sideOfTie(x, (bits >>> 13) & 1) : (bits & 0x1000) >>> 12;
    return sign | (((magnitude - 0x38000000) >>> 13) + up);
  }
  // Subnormal: an integer number of steps of 2^-24, into which scaling by a power of two is exact.
  const steps = Math.abs(x) * 2 ** 24;
  const below = Math.floor(steps);
  const up = steps - below === 0.5 ? below & 1 : Math.round(steps - below);
  return sign | (below + up);
}

/**
 * The number that 16 f16 bits stand for, exactly.
 *
 * @param bits - An integer from 0 to 65535.
 */
export function fromF16Bits(bits: number): number {
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return (bits & 0x8000 ? -fraction : fraction) * 2 ** -24;
  // The exponent is rebased from 15 to 127; all ones stay all ones.
  const rebased = exponent === 31 ? 255 : exponent + 112;
  scratchBits[0] = ((bits & 0x8000) << 16) | (rebased << 23) | (fraction << 13);
  return scratchFloat[0]!;
}

/**
 * Rounds numbers to a dtype, once, to nearest even. Integer dtypes truncate towards zero.
 *
 * @param values - Numbers in any array; for `q8` and `q4` whole blocks.
 * @param dtype - The target.
 * @returns A new array of the dtype's host type.
 *
 * @example
 * ```ts
 * import { decode, encode } from "@transmla/core";
 * console.log(Array.from(decode(encode([1.00390625, 3], "bf16"), "bf16"))); // => [1, 3]
 * ```
 */
export function encode(values: ArrayLike<number>, dtype: DType): HostArray {
  switch (dtype) {
    case "f32":
      return Float32Array.from(values);
    case "i32":
      return Int32Array.from(values);
    case "u32":
      return Uint32Array.from(values);
    case "f16":
      return map16(values, toF16Bits);
    case "bf16":
      return values instanceof Float32Array ? roundToBf16(values) : map16(values, toBf16Bits);
    case "q8":
    case "q4":
      return encodeBlocks(values, dtype);
  }
}

/** The same as {@link toBf16Bits} for each element, for whole models. */
function roundToBf16(values: Float32Array): Uint16Array {
  const all = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(all.length);
  for (let i = 0; i < out.length; i++) {
    const bits = all[i]!;
    const nan = (bits & 0x7fffffff) > 0x7f800000;
    out[i] = nan ? (bits >>> 16) | 0x40 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
  }
  return out;
}

function encodeBlocks(values: ArrayLike<number>, dtype: BlockDType): Uint8Array {
  if (values.length % BLOCK_SIZE !== 0) {
    fail(ArgumentError, "encode", `${values.length} numbers are not whole blocks of ${dtype}`);
  }
  const out = new Uint8Array(byteLength(dtype, values.length));
  for (let i = 0, at = 0; i < values.length; i += BLOCK_SIZE, at += blockBytes[dtype]) {
    encodeBlock(dtype, values, i, out, at);
  }
  return out;
}

function decodeBlocks(blocks: Uint8Array, dtype: BlockDType): Float32Array {
  const count = blocks.length / blockBytes[dtype];
  const out = new Float32Array(count * BLOCK_SIZE);
  for (let i = 0; i < count; i++) {
    decodeBlock(dtype, blocks, i * blockBytes[dtype], out, i * BLOCK_SIZE);
  }
  return out;
}

function map16(values: ArrayLike<number>, round: (x: number) => number): Uint16Array {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < out.length; i++) out[i] = round(values[i]!);
  return out;
}

/**
 * Widens elements of a dtype to numbers, exactly. The inverse of {@link encode} on representable values.
 *
 * @param values - `f16` and `bf16` as bits, `q8` and `q4` as whole blocks.
 * @param dtype - What they are.
 * @returns The same array for `f32`, `i32` and `u32`, a new `Float32Array` otherwise.
 */
export function decode(values: HostArray, dtype: DType): Float32Array | Int32Array | Uint32Array {
  if (values instanceof Uint8Array) return decodeBlocks(values, dtype as BlockDType);
  if (!(values instanceof Uint16Array)) return values;
  const out = new Float32Array(values.length);
  if (dtype === "bf16") {
    const bits = new Uint32Array(out.buffer);
    for (let i = 0; i < out.length; i++) bits[i] = values[i]! << 16;
    return out;
  }
  for (let i = 0; i < out.length; i++) out[i] = fromF16Bits(values[i]!);
  return out;
}

/**
 * Reads bytes as the host array of a dtype, without a copy where alignment allows.
 *
 * @param bytes - Little-endian elements.
 * @param dtype - What they are.
 */
export function asHostArray(bytes: Uint8Array, dtype: DType): HostArray {
  const size = unitBytes[dtype];
  if (bytes.byteLength % size !== 0) {
    fail(
      ArgumentError,
      "asHostArray",
      `${bytes.byteLength} bytes are not a whole number of ${dtype}`,
    );
  }
  if (isBlock(dtype)) return bytes;
  const aligned = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  const length = aligned.byteLength / size;
  switch (dtype) {
    case "f32":
      return new Float32Array(aligned.buffer, aligned.byteOffset, length);
    case "i32":
      return new Int32Array(aligned.buffer, aligned.byteOffset, length);
    case "u32":
      return new Uint32Array(aligned.buffer, aligned.byteOffset, length);
    case "f16":
    case "bf16":
      return new Uint16Array(aligned.buffer, aligned.byteOffset, length);
  }
}

/**
 * The bytes of a host array, without a copy.
 *
 * @param values - Any host array.
 */
export function bytesOf(values: HostArray): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
