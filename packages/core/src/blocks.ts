import type { View } from "./backend.ts";
import type { DType } from "./dtype.ts";

/** The element types that store blocks of 32 elements with a common scale. */
export type BlockDType = "q8" | "q4";

/** Elements of a block. */
export const BLOCK_SIZE = 32;

/** Bytes of a block: an f32 scale, then 32 integers of 8 bits, or of 4 bits. */
export const blockBytes: Readonly<Record<BlockDType, number>> = { q8: 36, q4: 20 };

/** Scales below this are 0: their inverse would be infinite in f32. */
const SMALLEST_SCALE = 2 ** -126;

const scratch = new Float32Array(1);
const scratchBytes = new Uint8Array(scratch.buffer);

/**
 * Whether elements are stored in blocks.
 *
 * @param dtype - Any element type.
 */
export function isBlock(dtype: DType): dtype is BlockDType {
  return dtype === "q8" || dtype === "q4";
}

/**
 * Whether a view of blocks starts at a block, steps over whole blocks, and has adjacent elements along its last axis (or
 * the one named), which may end inside a block.
 *
 * @param view - A view of `q8` or `q4`.
 * @param axis - The axis along which blocks lie.
 */
export function isAligned(
  { shape, strides, offset }: View,
  axis: number = shape.length - 1,
): boolean {
  return (
    offset % BLOCK_SIZE === 0 &&
    shape.every((size, i) => {
      return size === 1 || (i === axis ? strides[i] === 1 : strides[i]! % BLOCK_SIZE === 0);
    })
  );
}

function readScale(bytes: Uint8Array, at: number): number {
  for (let i = 0; i < 4; i++) scratchBytes[i] = bytes[at + i]!;
  return scratch[0]!;
}

/** Writes a scale, rounded to f32, and returns what it became. */
function writeScale(bytes: Uint8Array, at: number, scale: number): number {
  scratch[0] = Math.abs(scale) < SMALLEST_SCALE ? 0 : scale;
  for (let i = 0; i < 4; i++) bytes[at + i] = scratchBytes[i]!;
  return scratch[0];
}

/**
 * One element of a block: the scale times an integer from -127 to 127 (`q8`) or -8 to 7 (`q4`).
 *
 * @param dtype - What the block is.
 * @param bytes - Where it lies.
 * @param at - Its first byte.
 * @param index - From 0 to 31.
 * @returns A number that is to be rounded to f32.
 */
export function blockElement(
  dtype: BlockDType,
  bytes: Uint8Array,
  at: number,
  index: number,
): number {
  const scale = readScale(bytes, at);
  if (dtype === "q8") return scale * ((bytes[at + 4 + index]! << 24) >> 24);
  const pair = bytes[at + 4 + (index & 15)]!;
  return scale * ((index < 16 ? pair & 15 : pair >> 4) - 8);
}

/**
 * The elements of a block, rounded to f32.
 *
 * @param dtype - What the block is.
 * @param bytes - Where it lies.
 * @param at - Its first byte.
 * @param out - Where the elements go.
 * @param to - Where the first one goes.
 * @param count - How many, from the first on.
 */
export function decodeBlock(
  dtype: BlockDType,
  bytes: Uint8Array,
  at: number,
  out: Float32Array,
  to: number,
  count: number = BLOCK_SIZE,
): void {
  const scale = readScale(bytes, at);
  const from = at + 4;
  if (dtype === "q8") {
    for (let i = 0; i < count; i++) out[to + i] = scale * ((bytes[from + i]! << 24) >> 24);
    return;
  }
  for (let i = 0; i < count; i++) {
    const pair = bytes[from + (i & 15)]!;
    out[to + i] = scale * ((i < 16 ? pair & 15 : pair >> 4) - 8);
  }
}

/**
 * Rounds 32 numbers to a block. `q8` is symmetric: the largest magnitude becomes ±127. `q4` gives the number of largest
 * magnitude the integer -8 whatever its sign, so that all 16 integers are used (ggml, `quantize_row_q4_0_ref`).
 *
 * @param dtype - What the block is to be.
 * @param values - Finite numbers; what is not finite leaves a block without meaning.
 * @param from - The first of them.
 * @param bytes - Where the block goes.
 * @param at - Its first byte.
 */
export function encodeBlock(
  dtype: BlockDType,
  values: ArrayLike<number>,
  from: number,
  bytes: Uint8Array,
  at: number,
): void {
  let extreme = 0;
  for (let i = from; i < from + BLOCK_SIZE; i++) {
    if (Math.abs(values[i]!) > Math.abs(extreme)) extreme = values[i]!;
  }
  const scale = writeScale(bytes, at, dtype === "q8" ? Math.abs(extreme) / 127 : extreme / -8);
  const inverse = scale === 0 ? 0 : 1 / scale;
  const to = at + 4;
  if (dtype === "q8") {
    for (let i = 0; i < BLOCK_SIZE; i++) bytes[to + i] = Math.round(values[from + i]! * inverse);
    return;
  }
  const nibble = (i: number): number => Math.min(Math.floor(values[from + i]! * inverse + 8.5), 15);
  for (let i = 0; i < BLOCK_SIZE / 2; i++) bytes[to + i] = nibble(i) | (nibble(i + 16) << 4);
}
