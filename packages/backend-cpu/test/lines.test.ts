import { fc, test as prop } from "@fast-check/vitest";
import { expectClose } from "@transmla/core/testing";
import { describe, expect, test } from "vitest";

import { silu } from "../src/kernels/functions.ts";
import { rowFunctions, type RowFunctions } from "../src/kernels/rows.ts";
import { Memory, type KernelOptions } from "../src/memory.ts";
import { arithmetics, type Arithmetic } from "../src/simd/lines.ts";

/** What is done with rows of one memory. */
interface Functions extends RowFunctions {
  /** Writes `silu(gate) * up`. */
  gate(gate: number, up: number, to: number, count: number): void;
}

interface Side {
  readonly f32: Float32Array;
  readonly rows: Functions;
}

const LENGTH = 200_001;
// Where operands and results lie in either memory.
const [from, other, to] = [0, LENGTH, 2 * LENGTH] as const;

function side(options: KernelOptions): Side {
  const memory = new Memory(2 ** 32, options);
  expect(memory.scratch(3 * LENGTH)).toBe(0);
  const { f32, simd } = memory;
  const gate = (from: number, up: number, to: number, count: number): void => {
    if (simd) simd.get("gate")(4 * from, 4 * up, 4 * to, count);
    else for (let i = 0; i < count; i++) f32[to + i] = silu(f32[from + i]!) * f32[up + i]!;
  };
  return { f32, rows: { ...rowFunctions(memory), gate } };
}

type Run = (rows: Functions, count: number) => number | undefined;

/** What a function writes and returns. */
function outcome({ f32, rows }: Side, values: readonly number[], run: Run): [Float32Array, number] {
  f32.fill(0, to, to + values.length + 1);
  f32.set(values, from);
  f32.set(values.toReversed(), other);
  const returned = run(rows, values.length);
  return [f32.slice(to, to + values.length + 1), returned ?? 0];
}

const plain = side({ webAssembly: false });
// Multiples of 1/64, whose differences are exact, and others.
const lines = (exact: boolean): fc.Arbitrary<number[]> => {
  const floats = fc.float({ min: -100, max: 100, noNaN: true });
  const dyadic = fc.integer({ min: -6400, max: 6400 }).map((x) => x / 64);
  return fc.array(exact ? dyadic : floats, { maxLength: 70 });
};

describe.each([
  ["relaxed", false],
  ["deterministic", true],
])("functions of rows: %s", (_, deterministic) => {
  const own = side({ deterministic });
  const { f32, rows } = own;

  /** Where a result is an exponential, its error is relative to the exponent. */
  function expectSame(
    values: readonly number[],
    run: Run,
    exponent: (x: number) => number = () => 0,
  ): void {
    const [written, returned] = outcome(own, values, run);
    const [expected, total] = outcome(plain, values, run);
    const scale = expected.map((y, i) => Math.abs(y * exponent(values[i] ?? 0)));
    expectClose(written, expected, { dtype: "f32", terms: 1, scale });
    expectClose([returned], [total], { dtype: "f32", terms: values.length });
  }

  prop.prop([lines(false)])("the largest", (values) => {
    const [, largest] = outcome(own, values, (rows, n) => rows.largest(from, n));
    expect(largest + 0).toBe(Math.max(...values) + 0);
  });

  prop.prop([lines(true)])("exponentials and their sum", (values) => {
    const max = Math.max(...values);
    const run: Run = (rows, n) => rows.exponentials(from, to, n, max);
    expectSame(values, run, (x) => x - max);
  });

  prop.prop([lines(false)])("sum of squares", (values) => {
    expectSame(values, (rows, n) => rows.sumOfSquares(from, n));
  });

  prop.prop([lines(false)])("weights and scale", (values) => {
    expectSame(values, (rows, count) => {
      rows.weigh({ from, weight: other, to, count }, 0.25, 1);
      rows.scale(to, count, 3);
      return undefined;
    });
  });

  prop.prop([lines(false)])("gate", (values) => {
    const run: Run = (rows, n) => {
      rows.gate(from, other, to, n);
      return undefined;
    };
    expectSame(values, run, (x) => x);
  });

  test("how far an exponential errs", () => {
    const slope = deterministic ? 7e-8 : 1.4e-8;
    const count = 200_000;
    for (let i = 0; i < count; i++) f32[from + i] = (-87.3 * i) / count;
    rows.exponentials(from, to, count, 0);
    let worst = 0;
    for (let i = 0; i < count; i++) {
      const x = f32[from + i]!;
      const error = Math.abs(f32[to + i]! / Math.exp(x) - 1);
      worst = Math.max(worst, error - slope * -x);
    }
    expect(worst).toBeLessThan(4e-7);
    expect(worst).toBeGreaterThan(2 ** -26); // it is measured at all
  });

  test("what is infinite or not a number", () => {
    const values = [-Infinity, -1e30, 0, Number.NaN];
    expect(outcome(own, values, (rows, n) => rows.largest(from, n))[1]).toBe(0);
    const [written, sum] = outcome(own, values, (rows, n) => rows.exponentials(from, to, n, 0));
    expect([...written]).toEqual([0, 0, 1, Number.NaN, 0]);
    expect(sum).toBeNaN();
    f32.fill(1, other, other + 5);
    f32.set([-1e30, 1e30, Infinity, Number.NaN], from);
    rows.gate(from, other, to, 4);
    expect(Array.from(f32.slice(to, to + 4), (x) => x + 0)).toEqual([
      0,
      Math.fround(1e30),
      Infinity,
      Number.NaN,
    ]);
  });
});

describe("arithmetic", () => {
  const functions: Readonly<Record<Arithmetic, (a: number, b: number) => number>> = {
    add: (a, b) => a + b,
    sub: (a, b) => a - b,
    mul: (a, b) => a * b,
    div: (a, b) => a / b,
    max: Math.max,
    min: Math.min,
  };
  const memory = new Memory(2 ** 32);
  expect(memory.scratch(1024)).toBe(0);
  const { f32 } = memory;
  const pairs = fc.array(fc.tuple(fc.float(), fc.float()), { maxLength: 70 });

  for (const fn of arithmetics) {
    prop.prop([pairs])(`${fn} is that of numbers, rounded once`, (values) => {
      const count = values.length;
      for (let i = 0; i < count; i++) [f32[200 + i], f32[400 + i]] = values[i]!;
      memory.simd!.get(`${fn} lines`)(4 * 200, 4 * 400, 4 * 600, count);
      const expected = Float32Array.from(values, ([a, b]) => functions[fn](a, b));
      expect(f32.slice(600, 600 + count)).toEqual(expected);
    });
  }
});
