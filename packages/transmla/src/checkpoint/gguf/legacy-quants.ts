import { fromF16Bits, toF16Bits } from "@transmla/core";

/** Where dequantised values go. Formulas are exact in f64, so an f32 array holds each value rounded once. */
export type Numbers = Float32Array | Float64Array;

/** Elements of a block of the formats in this file. */
const BLOCK = 32;

/**
 * The f16 number at a place.
 *
 * @param bytes - Little-endian bytes.
 * @param at - Its first byte.
 */
export function f16At(bytes: Uint8Array, at: number): number {
  return fromF16Bits(bytes[at]! | (bytes[at + 1]! << 8));
}

/**
 * Q8_0 (ggml, `block_q8_0`): a scale and 32 signed bytes.
 *
 * @param bytes - Whole blocks.
 * @param out - Their values; as many as the blocks hold.
 */
export function dequantizeQ8(bytes: Uint8Array, out: Numbers): void {
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0, o = 0; o < out.length; at += 2 + BLOCK, o += BLOCK) {
    const d = f16At(bytes, at);
    for (let i = 0; i < BLOCK; i++) out[o + i] = signed[at + 2 + i]! * d;
  }
}

/**
 * The Q8_0 blocks nearest to values (ggml, `quantize_row_q8_0_ref`): the largest of 32 becomes ±127.
 *
 * @param values - A multiple of 32.
 */
export function quantizeQ8(values: Float64Array): Uint8Array {
  const out = new Uint8Array((values.length / BLOCK) * (2 + BLOCK));
  const signed = new Int8Array(out.buffer);
  for (let at = 0, v = 0; v < values.length; at += 2 + BLOCK, v += BLOCK) {
    let largest = 0;
    for (let i = 0; i < BLOCK; i++) largest = Math.max(largest, Math.abs(values[v + i]!));
    const d = largest / 127;
    const bits = toF16Bits(d);
    out[at] = bits & 255;
    out[at + 1] = bits >> 8;
    for (let i = 0; i < BLOCK; i++) {
      const steps = d === 0 ? 0 : Math.abs(values[v + i]!) / d;
      signed[at + 2 + i] = Math.sign(values[v + i]!) * Math.floor(steps + 0.5); // halves away from zero
    }
  }
  return out;
}

/**
 * Q4_0 and Q4_1 (ggml, `block_q4_0`, `block_q4_1`): 16 bytes hold the first half of 32 values in their low nibbles and
 * the second half in their high ones.
 *
 * @param bytes - Whole blocks.
 * @param out - Their values; as many as the blocks hold.
 * @param hasMinimum - Whether a block has a minimum (Q4_1); otherwise nibbles are centred at 8.
 */
export function dequantizeQ4(bytes: Uint8Array, out: Numbers, hasMinimum: boolean): void {
  const head = hasMinimum ? 4 : 2;
  const centre = hasMinimum ? 0 : 8;
  for (let at = 0, o = 0; o < out.length; at += head + BLOCK / 2, o += BLOCK) {
    const d = f16At(bytes, at);
    const minimum = hasMinimum ? f16At(bytes, at + 2) : 0;
    for (let i = 0; i < BLOCK / 2; i++) {
      const pair = bytes[at + head + i]!;
      out[o + i] = ((pair & 15) - centre) * d + minimum;
      out[o + BLOCK / 2 + i] = ((pair >> 4) - centre) * d + minimum;
    }
  }
}

/**
 * Q5_0 and Q5_1 (ggml, `block_q5_0`, `block_q5_1`): as {@link dequantizeQ4}, with the fifth bits of all 32 values in
 * one little-endian word.
 *
 * @param bytes - Whole blocks.
 * @param out - Their values; as many as the blocks hold.
 * @param hasMinimum - Whether a block has a minimum (Q5_1); otherwise values are centred at 16.
 */
export function dequantizeQ5(bytes: Uint8Array, out: Numbers, hasMinimum: boolean): void {
  const head = hasMinimum ? 4 : 2;
  const centre = hasMinimum ? 0 : 16;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0, o = 0; o < out.length; at += head + 4 + BLOCK / 2, o += BLOCK) {
    const d = f16At(bytes, at);
    const minimum = hasMinimum ? f16At(bytes, at + 2) : 0;
    const fifth = view.getUint32(at + head, true);
    for (let i = 0; i < BLOCK / 2; i++) {
      const pair = bytes[at + head + 4 + i]!;
      const low = (pair & 15) | (((fifth >>> i) & 1) << 4);
      const high = (pair >> 4) | (((fifth >>> (i + 16)) & 1) << 4);
      out[o + i] = (low - centre) * d + minimum;
      out[o + BLOCK / 2 + i] = (high - centre) * d + minimum;
    }
  }
}
