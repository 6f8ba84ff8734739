import { f16At, type Numbers } from "./legacy-quants.ts";

/** Elements of a block of the formats in this file. */
const BLOCK = 256;

/**
 * Unpacks eight pairs of 6-bit numbers, a scale and a minimum for each 32 values (ggml, `get_scale_min_k4`).
 *
 * @param bytes - The blocks.
 * @param at - The first of the 12 bytes.
 * @param scales - Receives 8 scales.
 * @param minimums - Receives 8 minimums.
 */
function unpackScales(
  bytes: Uint8Array,
  at: number,
  scales: Uint8Array,
  minimums: Uint8Array,
): void {
  for (let i = 0; i < 4; i++) {
    const low = bytes[at + i]!;
    const middle = bytes[at + 4 + i]!;
    const high = bytes[at + 8 + i]!;
    scales[i] = low & 63;
    minimums[i] = middle & 63;
    scales[i + 4] = (high & 15) | ((low >> 6) << 4);
    minimums[i + 4] = (high >> 4) | ((middle >> 6) << 4);
  }
}

/**
 * Q4_K and Q5_K (ggml, `block_q4_K`, `block_q5_K`): each 32 bytes hold 32 values in their low nibbles and the next 32
 * in their high ones. In Q5_K, bit b of 32 further bytes is the fifth bit of the values of sub-block b.
 *
 * @param bytes - Whole blocks.
 * @param out - Their values; as many as the blocks hold.
 * @param hasFifthBits - Whether the blocks are Q5_K.
 */
export function dequantizeQ45K(bytes: Uint8Array, out: Numbers, hasFifthBits: boolean): void {
  const scales = new Uint8Array(8);
  const minimums = new Uint8Array(8);
  const head = 16 + (hasFifthBits ? 32 : 0);
  for (let at = 0, o = 0; o < out.length; at += head + BLOCK / 2, o += BLOCK) {
    const d = f16At(bytes, at);
    const dMinimum = f16At(bytes, at + 2);
    unpackScales(bytes, at + 4, scales, minimums);
    for (let sub = 0; sub < 8; sub++) {
      const scale = d * scales[sub]!;
      const minimum = dMinimum * minimums[sub]!;
      const nibbles = at + head + (sub >> 1) * 32;
      const shift = (sub & 1) * 4;
      for (let i = 0; i < 32; i++) {
        const fifth = hasFifthBits ? ((bytes[at + 16 + i]! >> sub) & 1) << 4 : 0;
        const value = ((bytes[nibbles + i]! >> shift) & 15) | fifth;
        out[o + sub * 32 + i] = scale * value - minimum;
      }
    }
  }
}

/**
 * Q6_K (ggml, `block_q6_K`): per 128 values, 64 bytes hold the low nibbles, first those of the first half, and 32 bytes
 * the high pairs of bits; a signed scale for each 16 values.
 *
 * @param bytes - Whole blocks.
 * @param out - Their values; as many as the blocks hold.
 */
export function dequantizeQ6K(bytes: Uint8Array, out: Numbers): void {
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0, o = 0; o < out.length; at += 210, o += BLOCK) {
    const d = f16At(bytes, at + 208);
    for (let i = 0; i < BLOCK; i++) {
      const half = i >> 7;
      const quarter = (i >> 5) & 3;
      const lane = i & 31;
      const low = bytes[at + half * 64 + (quarter & 1) * 32 + lane]! >> ((quarter >> 1) * 4);
      const high = bytes[at + 128 + half * 32 + lane]! >> (quarter * 2);
      const value = ((low & 15) | ((high & 3) << 4)) - 32;
      out[o + i] = d * signed[at + 192 + (i >> 4)]! * value;
    }
  }
}
