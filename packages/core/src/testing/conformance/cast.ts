import * as fc from "fast-check";
import { test } from "vitest";

import { decode, encode, type DType } from "../../dtype.ts";
import { cast } from "../../ops.ts";
import { tensor } from "../../tensor.ts";
import { dtypes, samples, shapes } from "../arbitraries.ts";
import { evaluate, forAll, type Subject } from "../harness.ts";
import { elementsOf, place, type Values } from "../samples.ts";
import { expectIdentical } from "../tolerance.ts";

/** `copy` between dtypes: one rounding to nearest even, or towards zero where an integer dtype takes a float. */
export function castTests(subject: Subject): void {
  for (const from of dtypes) {
    for (const to of dtypes) castTest(from, to, subject);
  }
  for (const [from, targets, numbers] of edges) {
    test(`cast ${from} to ${targets.join(", ")} on ties and limits`, async () => {
      const held = decode(encode(numbers, from), from);
      for (const to of targets) {
        const x = (): ReturnType<typeof tensor> => tensor(subject(), held, [held.length], from);
        const { values } = await evaluate(() => cast(x(), to));
        expectIdentical(values, decode(encode(held, to), to));
      }
    });
  }
}

const isInteger = (dtype: DType): boolean => dtype === "i32" || dtype === "u32";

function castTest(from: DType, to: DType, subject: Subject): void {
  // An integer dtype has no place for NaN and for what lies beyond its range; integers wrap around into each other.
  const kinds: readonly Values[] =
    isInteger(from) || !isInteger(to) ? ["any", "coarse"] : ["natural"];
  const arbitrary = fc
    .tuple(shapes({ maxRank: 4 }), fc.constantFrom(...kinds))
    .chain(([shape, values]) => samples(shape, from, { values }));
  test(
    `cast ${from} to ${to} rounds once`,
    forAll(
      arbitrary,
      async (x) => {
        const { values } = await evaluate(() => cast(place(subject(), x), to));
        expectIdentical(values, decode(encode(elementsOf(x).values, to), to));
      },
      30,
    ),
  );
}

/** Numbers halfway between two neighbours of a dtype with so many significant bits, and next to halfway. */
function ties(bits: number): number[] {
  const halfway = [0.5, 1.5, 2.5, 3.5].map((steps) => 1 + steps * 2 ** (1 - bits));
  return halfway.flatMap((x) => [x, -x, x - 2 ** -23, x + 2 ** -23, x * 2 ** -10, x * 2 ** 10]);
}

/** Subnormals of f16 and bf16, halfway between two of them, and below all of them. */
const small = [2 ** -14, 2 ** -24, 2 ** -25, 2 ** -25 + 2 ** -40, 3 * 2 ** -25, 5 * 2 ** -25]
  .concat([2 ** -26, 2 ** -126, 2 ** -133, 2 ** -134, 3 * 2 ** -134, 2 ** -149, -(2 ** -149)])
  .concat([0, -0]);

/** Where f16 and bf16 overflow. */
const large = [65504, 65519, 65520, -65520, 65536, (2 - 2 ** -8) * 2 ** 127].concat([
  (2 - 2 ** -23) * 2 ** 127,
  Infinity,
  -Infinity,
  Number.NaN,
]);

const limits = [...small, ...large];

const signed = [0, 1, -1, 257, -259, 2049, 2051, -65519, 65520, 2 ** 31 - 1, -(2 ** 31)];
// Beyond 2^24 a way through f32 rounds twice: the last of these goes to a tie first.
const beyondFloat = [
  2 ** 24 + 1,
  2 ** 24 + 3,
  2 ** 30 + 1,
  2 ** 24 + 2 ** 16,
  2 ** 24 + 2 ** 16 + 1,
];
const fractions = [0.99, 1.5, 2.5, 1e-3, 8388607.5, 2 ** 31 - 128];

const edges: readonly (readonly [DType, readonly DType[], readonly number[]])[] = [
  ["f32", ["f32", "f16", "bf16"], [...ties(8), ...ties(11), ...limits]],
  ["f16", ["f32", "f16", "bf16"], [...ties(8), ...limits]],
  ["bf16", ["f32", "f16", "bf16"], limits],
  [
    "i32",
    ["f32", "f16", "bf16", "i32", "u32"],
    [...signed, ...beyondFloat, ...beyondFloat.map((x) => -x)],
  ],
  ["u32", ["f32", "f16", "bf16", "i32", "u32"], [...signed.map((x) => x >>> 0), ...beyondFloat]],
  ["f32", ["i32"], [...fractions, ...fractions.map((x) => -x), -(2 ** 31)]],
  ["f32", ["u32"], [...fractions, -0.5, 2 ** 31, 2 ** 32 - 256]],
];
