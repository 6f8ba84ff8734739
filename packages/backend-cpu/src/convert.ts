import {
  BLOCK_SIZE,
  byteLength,
  decodeBlock,
  fromF16Bits,
  toF16Bits,
  type BlockDType,
  type DType,
} from "@transmla/core";

import { isHalf } from "./kernel.ts";
import type { Memory } from "./memory.ts";

/** Equally spaced elements: an index into the view of their width, and a step. */
export interface Run {
  /** The first element. */
  readonly at: number;
  /** From one element to the next. */
  readonly step: number;
}

/**
 * Widens f16 or bf16 elements to f32, exactly.
 *
 * @param memory - Where both lie.
 * @param dtype - What the source holds.
 * @param from - The source, in u16.
 * @param to - The target, in f32.
 * @param count - How many elements.
 */
export function widen(
  memory: Memory,
  dtype: "f16" | "bf16",
  from: Run,
  to: Run,
  count: number,
): void {
  const dense = from.step === 1 && to.step === 1;
  const unrolled = dense ? count - (count % 4) : 0;
  if (dtype === "bf16") {
    widenFours(memory, from.at, to.at, unrolled);
    const { i32, u16 } = memory;
    for (let i = unrolled; i < count; i++) {
      i32[to.at + i * to.step] = u16[from.at + i * from.step]! << 16;
    }
  } else {
    lookUpFours(memory, from.at, to.at, unrolled);
    const { f32, u16 } = memory;
    const table = f16Values();
    for (let i = unrolled; i < count; i++) {
      f32[to.at + i * to.step] = table[u16[from.at + i * from.step]!]!;
    }
  }
}

// Unrolled, because widening is most of the work where few rows meet 16-bit weights.

function widenFours({ i32, u16 }: Memory, from: number, to: number, count: number): void {
  for (let i = 0; i < count; i += 4) {
    const source = from + i;
    const target = to + i;
    i32[target] = u16[source]! << 16;
    i32[target + 1] = u16[source + 1]! << 16;
    i32[target + 2] = u16[source + 2]! << 16;
    i32[target + 3] = u16[source + 3]! << 16;
  }
}

function lookUpFours({ f32, u16 }: Memory, from: number, to: number, count: number): void {
  const table = f16Values();
  for (let i = 0; i < count; i += 4) {
    const source = from + i;
    const target = to + i;
    f32[target] = table[u16[source]!]!;
    f32[target + 1] = table[u16[source + 1]!]!;
    f32[target + 2] = table[u16[source + 2]!]!;
    f32[target + 3] = table[u16[source + 3]!]!;
  }
}

let f16Table: Float32Array | undefined;

/** What each f16 bit pattern stands for: looking it up is twice as fast as working it out. */
function f16Values(): Float32Array {
  f16Table ??= Float32Array.from({ length: 65_536 }, (_, bits) => fromF16Bits(bits));
  return f16Table;
}

/**
 * Rounds f32 elements to f16 or bf16, once, to nearest even.
 *
 * @param memory - Where both lie.
 * @param dtype - What the target holds.
 * @param from - The source, in f32.
 * @param to - The target, in u16.
 * @param count - How many elements.
 */
export function narrow(
  memory: Memory,
  dtype: "f16" | "bf16",
  from: Run,
  to: Run,
  count: number,
): void {
  const { f32, i32, u16 } = memory;
  let [source, target] = [from.at, to.at];
  const [sourceStep, targetStep] = [from.step, to.step];
  if (dtype === "bf16") {
    for (let i = 0; i < count; i++, source += sourceStep, target += targetStep) {
      const bits = i32[source]!;
      const nan = (bits & 0x7fffffff) > 0x7f800000;
      u16[target] = nan ? (bits >>> 16) | 0x40 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
    }
    return;
  }
  for (let i = 0; i < count; i++, source += sourceStep, target += targetStep) {
    const bits = i32[source]!;
    const magnitude = bits & 0x7fffffff;
    // From 2^-14 to below 65504 + half a unit the result is normal.
    if (magnitude >= 0x38800000 && magnitude < 0x477ff000) {
      const rounded = (magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13;
      u16[target] = ((bits >>> 16) & 0x8000) | rounded;
    } else u16[target] = toF16Bits(f32[source]!);
  }
}

/**
 * Makes a dense line of floats readable as f32: in place, or widened into scratch.
 *
 * @param memory - Where it lies.
 * @param dtype - What it holds.
 * @param at - Its first element, in the view of its width.
 * @param count - How many elements.
 * @param scratch - Where a widened copy may be put, in f32.
 * @returns Where the floats are, in f32.
 */
export function asFloats(
  memory: Memory,
  dtype: DType,
  at: number,
  count: number,
  scratch: number,
): number {
  if (!isHalf(dtype)) return at;
  widen(memory, dtype, { at, step: 1 }, { at: scratch, step: 1 }, count);
  return scratch;
}

/**
 * Widens adjacent elements of blocks to f32.
 *
 * @param memory - Where both lie.
 * @param dtype - What the source holds.
 * @param from - The address of the first block.
 * @param to - The target, in f32.
 * @param count - How many elements.
 */
export function widenBlocks(
  { f32, u8, simd }: Memory,
  dtype: BlockDType,
  from: number,
  to: number,
  count: number,
): void {
  const whole = simd ? count - (count % BLOCK_SIZE) : 0;
  if (simd && whole > 0) simd.get(`widen ${dtype}`)(from, 0, 4 * to, 1, whole / BLOCK_SIZE);
  for (let i = whole; i < count; i += BLOCK_SIZE) {
    const elements = Math.min(BLOCK_SIZE, count - i);
    decodeBlock(dtype, u8, from + byteLength(dtype, i), f32, to + i, elements);
  }
}
