import { ArgumentError, fail } from "@transmla/core";

/**
 * Makes a generator of uniform numbers in [0, 1), the same on every platform: multiples of 2^-53, each from two steps
 * of xoshiro128**.
 *
 * @param seed - An integer from 0 to 2^53 - 1.
 *
 * @example
 * ```ts
 * import { createRandom } from "transmla";
 * const random = createRandom(1);
 * const again = createRandom(1);
 * console.log(random() === again() && random() === again()); // => true
 * ```
 */
export function createRandom(seed: number): () => number {
  if (!Number.isSafeInteger(seed) || seed < 0) {
    fail(ArgumentError, "generate", `seed ${seed} must be an integer from 0 to 2^53 - 1`);
  }
  const next = xoshiro128(expandSeed(seed));
  // As `genrand_res53` of the Mersenne Twister: 27 bits and 26 bits.
  return () => ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53;
}

/**
 * The generator xoshiro128** 1.1 (Blackman and Vigna, Scrambled linear pseudorandom number generators, 2021), of
 * period 2^128 - 1.
 *
 * @param state - Four 32-bit words, not all zero; the generator keeps a copy.
 * @returns A function that gives integers from 0 to 2^32 - 1.
 */
export function xoshiro128(state: Uint32Array): () => number {
  const s = state.slice(0, 4);
  return () => {
    const result = Math.imul(rotateLeft(Math.imul(s[1]!, 5), 7), 9) >>> 0;
    const t = s[1]! << 9;
    s[2]! ^= s[0]!;
    s[3]! ^= s[1]!;
    s[1]! ^= s[2]!;
    s[0]! ^= s[3]!;
    s[2]! ^= t;
    s[3] = rotateLeft(s[3]!, 11);
    return result;
  };
}

function rotateLeft(x: number, bits: number): number {
  return (x << bits) | (x >>> (32 - bits));
}

/** Four words from the halves of a seed, by turns: the first two words tell all seeds apart. */
function expandSeed(seed: number): Uint32Array {
  const halves = [seed >>> 0, Math.floor(seed / 2 ** 32)];
  let word = 0;
  return Uint32Array.from(
    [...halves, ...halves],
    (half) => (word = mix((word ^ half) + 0x9e3779b9)),
  );
}

/** The finaliser of MurmurHash3, a bijection on 32-bit words. */
function mix(x: number): number {
  let h = x;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}
