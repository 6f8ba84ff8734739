// Damage to files of any format.
import { fc } from "@fast-check/vitest";

/** A change of a file; the other one is there to take parts from. */
export type Damage = (bytes: Uint8Array, other: Uint8Array) => Uint8Array;

/** Bytes that mean something to a reader: lengths, counts and types at their limits, and the marks of JSON. */
const telling = fc.constantFrom(
  0,
  1,
  2,
  4,
  7,
  8,
  9,
  12,
  13,
  0x7f,
  0x80,
  0xff,
  ...encode('"{}[],:'),
);

/** Headers stand in front: small places are likely. */
const place = fc.oneof(fc.nat(64), fc.nat(4096), fc.nat(2 ** 17), fc.nat());
const span = fc.oneof(fc.integer({ min: 1, max: 16 }), fc.integer({ min: 1, max: 4096 }));

const word = fc.oneof(
  fc.constantFrom(0n, 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n),
  fc.bigInt({ min: 0n, max: 2n ** 25n }),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
);

export function encode(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

function join(...parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** Where to begin in a file of any length. */
const within = (at: number, { length }: Uint8Array): number => (length === 0 ? 0 : at % length);

const setByte = fc.tuple(place, fc.oneof(telling, fc.nat(255))).map(
  ([at, value]): Damage =>
    (bytes) =>
      join(
        bytes.subarray(0, within(at, bytes)),
        Uint8Array.of(value),
        bytes.subarray(within(at, bytes) + 1),
      ),
);

const flipBit = fc.tuple(place, fc.nat(7)).map(
  ([at, bit]): Damage =>
    (bytes) =>
      bytes.map((byte, i) => (i === within(at, bytes) ? byte ^ (1 << bit) : byte)),
);

const setWord = fc.tuple(place, word, fc.boolean()).map(([at, value, wide]): Damage => (bytes) => {
  const size = wide ? 8 : 4;
  const copy = bytes.slice();
  if (copy.length < size) return copy;
  const begin = Math.min(within(at, copy), copy.length - size);
  const view = new DataView(copy.buffer);
  if (wide) view.setBigUint64(begin, value, true);
  else view.setUint32(begin, Number(value & 0xffff_ffffn), true);
  return copy;
});

const remove = fc.tuple(place, span).map(
  ([at, count]): Damage =>
    (bytes) =>
      join(bytes.subarray(0, within(at, bytes)), bytes.subarray(within(at, bytes) + count)),
);

const insert = fc.tuple(place, fc.uint8Array({ minLength: 1, maxLength: 16 })).map(
  ([at, added]): Damage =>
    (bytes) =>
      join(bytes.subarray(0, within(at, bytes)), added, bytes.subarray(within(at, bytes))),
);

const duplicate = fc.tuple(place, span, place).map(([at, count, target]): Damage => (bytes) => {
  const begin = within(at, bytes);
  const to = within(target, bytes);
  return join(bytes.subarray(0, to), bytes.subarray(begin, begin + count), bytes.subarray(to));
});

const truncate = place.map(
  (at): Damage =>
    (bytes) =>
      bytes.subarray(0, within(at, bytes)),
);

const splice = fc.tuple(place, fc.option(place)).map(([at, from]): Damage => (bytes, other) => {
  const begin = within(at, bytes);
  return join(bytes.subarray(0, begin), other.subarray(within(from ?? begin, other)));
});

/** Digits in a row after a place become another number. */
const blowUp = fc
  .tuple(
    place,
    fc.constantFrom("0", "-1", "2147483648", "9007199254740993", "1e308", "1e999", "[]"),
  )
  .map(([at, number]): Damage => (bytes) => {
    const isDigit = (byte: number): boolean => byte >= 0x30 && byte <= 0x39;
    const begin = bytes.findIndex((byte, i) => i >= within(at, bytes) && isDigit(byte));
    if (begin < 0) return bytes;
    let end = begin;
    while (end < bytes.length && isDigit(bytes[end]!)) end++;
    return join(bytes.subarray(0, begin), encode(number), bytes.subarray(end));
  });

/** One to three changes. */
export const damage: fc.Arbitrary<Damage> = fc
  .array(
    fc.oneof(
      { weight: 3, arbitrary: setByte },
      flipBit,
      { weight: 3, arbitrary: setWord },
      remove,
      insert,
      duplicate,
      truncate,
      splice,
      blowUp,
    ),
    { minLength: 1, maxLength: 3 },
  )
  .map(
    (changes): Damage =>
      (bytes, other) =>
        changes.reduce((changed, change) => change(changed, other), bytes),
  );
