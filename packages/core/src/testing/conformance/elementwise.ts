import * as fc from "fast-check";
import { test } from "vitest";

import type { BinaryFunction, UnaryFunction } from "../../backend.ts";
import { decode, encode, type DType } from "../../dtype.ts";
import { add, div, equal, full, less, maximum, minimum, mul, sub, unary } from "../../ops.ts";
import type { Shape } from "../../shape.ts";
import { tensor, type Tensor } from "../../tensor.ts";
import { anyDType, anyFloat, cases, samples, shapes, type Case } from "../arbitraries.ts";
import { evaluate, forAll, type Subject } from "../harness.ts";
import * as reference from "../reference.ts";
import { elementsOf, place, type Values } from "../samples.ts";
import { expectClose, expectIdentical } from "../tolerance.ts";

const binaryOps: Readonly<Record<BinaryFunction, (a: Tensor, b: Tensor) => Tensor>> = {
  add,
  sub,
  mul,
  div,
  max: maximum,
  min: minimum,
  equal,
  less,
};

/** Which arguments a function of one argument is tried on. */
const unaryValues: Readonly<Record<UnaryFunction, Values>> = {
  identity: "smooth",
  exp: "smooth",
  log: "positive",
  rsqrt: "positive",
  tanh: "smooth",
  sigmoid: "smooth",
  silu: "smooth",
  gelu: "smooth",
  sin: "smooth",
  cos: "smooth",
  abs: "smooth",
};

/** Up to six axes, of which core merges what it can. */
const manyAxes = fc.oneof(
  shapes({ maxRank: 3 }),
  shapes({ minRank: 4, maxRank: 6, maxSize: 5, maxElements: 600 }),
);

/** `fill`, `unary` and `binary`. */
export function elementwiseTests(subject: Subject): void {
  fillTests(subject);
  for (const fn of Object.keys(unaryValues) as UnaryFunction[]) unaryTest(fn, subject);
  saturationTest(subject);
  for (const fn of Object.keys(binaryOps) as BinaryFunction[]) binaryTest(fn, subject);
}

function fillTests(subject: Subject): void {
  const ramp = fc.record({
    shape: manyAxes,
    dtype: anyDType,
    start: fc.integer({ min: -2000, max: 2000 }),
    step: fc.integer({ min: -9, max: 9 }),
  });
  test(
    "fill gives ramps that f32 holds exactly, with one rounding",
    forAll(ramp, async (case_) => {
      const { shape, dtype } = case_;
      const integer = dtype === "i32" || dtype === "u32";
      // u32 starts high enough to stay positive; floats go by eighths.
      const start = dtype === "u32" ? case_.start + 4000 : integer ? case_.start : case_.start / 8;
      const step = integer ? case_.step : case_.step / 8;
      const { values } = await evaluate(() => full(subject(), shape, start, step, dtype));
      const exact = reference.fill(shape, start, step).values;
      expectIdentical(values, decode(encode(exact, dtype), dtype));
    }),
  );

  const reals = fc.record({
    shape: manyAxes,
    dtype: anyFloat,
    start: fc.double({ min: -100, max: 100, noNaN: true }),
    step: fc.double({ min: -1, max: 1, noNaN: true }),
  });
  test(
    "fill gives ramps of reals",
    forAll(reals, async ({ shape, dtype, start, step }) => {
      const { values } = await evaluate(() => full(subject(), shape, start, step, dtype));
      const expected = reference.fill(shape, start, step);
      expectClose(values, expected.values, { ...expected, dtype });
    }),
  );
}

function unaryTest(fn: UnaryFunction, subject: Subject): void {
  const values = unaryValues[fn];
  const factor = fc.double({ min: 0.125, max: 3, noNaN: true });
  const attributes = fc.record({
    scale:
      values === "positive"
        ? factor
        : fc.oneof(
            factor,
            factor.map((x) => -x),
            fc.constant(1),
          ),
    shift: fc.oneof(
      fc.constant(0),
      fc.double({ min: values === "positive" ? 0 : -2, max: 2, noNaN: true }),
    ),
  });
  const arbitrary = fc
    .tuple(manyAxes, anyFloat)
    .chain(([shape, dtype]) => cases([samples(shape, dtype, { values })], attributes));
  test(
    `unary ${fn}`,
    forAll(arbitrary, async ({ operands: [x], attributes: { scale, shift } }) => {
      const result = await evaluate(() => unary(fn, place(subject(), x!), scale, shift));
      const expected = reference.unary(fn, elementsOf(x!), scale, shift);
      expectClose(result.values, expected.values, { ...expected, dtype: x!.dtype });
    }),
  );
}

function saturationTest(subject: Subject): void {
  const limits: Partial<Record<UnaryFunction, readonly number[]>> = {
    exp: [-10000, -200, -88, 88],
    tanh: [-10000, -200, -20, -9, 9, 20, 200, 10000],
    sigmoid: [-10000, -200, -88, -20, 20, 88, 200, 10000],
    silu: [-10000, -200, -88, -20, 20, 88, 200, 10000],
    gelu: [-10000, -200, -20, -9, 9, 20, 200, 10000],
  };
  for (const [name, arguments_] of Object.entries(limits)) {
    const fn = name as UnaryFunction;
    test(`unary ${fn} of large arguments is finite`, async () => {
      const result = await evaluate(() =>
        unary(fn, tensor(subject(), arguments_, [arguments_.length])),
      );
      const expected = reference.unary(
        fn,
        { shape: [arguments_.length], values: arguments_ },
        1,
        0,
      );
      expectClose(result.values, expected.values, { ...expected, dtype: "f32" });
    });
  }
}

/** A shape that broadcasts to another: some axes are 1 wide, some leading ones are missing. */
function narrowed(shape: Shape): fc.Arbitrary<Shape> {
  const { length } = shape;
  const kept = fc.array(fc.nat(4), { minLength: length, maxLength: length });
  return fc.tuple(kept, fc.nat(length)).map(([kept, dropped]) => {
    const narrow = shape.map((size, axis) => (kept[axis] === 0 ? 1 : size));
    const leadingOnes = [...narrow, 0].findIndex((size) => size !== 1);
    return narrow.slice(Math.min(dropped, leadingOnes));
  });
}

/** Two operands that broadcast. */
function pairs(fn: BinaryFunction): fc.Arbitrary<Case> {
  return fc
    .tuple(manyAxes, anyDType)
    .chain(([shape, dtype]) => fc.tuple(narrowed(shape), narrowed(shape), fc.constant(dtype)))
    .chain(([left, right, dtype]) => {
      const { values, divisor } = binaryValues(fn, dtype);
      const operands = [
        samples(left, dtype, { values }),
        samples(right, dtype, { values: divisor ?? values }),
      ];
      return cases(operands, fc.constant({}));
    });
}

/** Which numbers a function of two arguments is tried on: none whose result is undefined. */
function binaryValues(
  fn: BinaryFunction,
  dtype: DType,
): { readonly values: Values; readonly divisor?: Values } {
  const integer = dtype === "i32" || dtype === "u32";
  if (fn === "div") return { values: integer ? "finite" : "smooth", divisor: "positive" };
  if (fn === "equal" || fn === "less") return { values: "coarse" };
  return { values: integer || fn === "max" || fn === "min" ? "finite" : "smooth" };
}

function binaryTest(fn: BinaryFunction, subject: Subject): void {
  test(
    `binary ${fn}`,
    forAll(pairs(fn), async ({ operands: [a, b] }) => {
      const { dtype } = a!;
      const result = await evaluate(() =>
        binaryOps[fn](place(subject(), a!), place(subject(), b!)),
      );
      const [left, right] = [a!, b!].map((x) => reference.expand(elementsOf(x), result.shape));
      const { values } = reference.binary(fn, left!, right!, dtype);
      const scale = Array.from(left!.values, (x, i) => Math.abs(x) + Math.abs(right!.values[i]!));
      const terms = fn === "add" || fn === "sub" ? 2 : 0;
      expectClose(result.values, values, { dtype, terms, scale });
    }),
  );
}
