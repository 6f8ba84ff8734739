import { repeat, until, when } from "../wasm/control.ts";
import type { F32, Statement, V128 } from "../wasm/expression.ts";
import {
  increase,
  type Call,
  type FunctionScope,
  type Local,
  type ModuleBuilder,
} from "../wasm/module.ts";
import { f32, f64, i32 } from "../wasm/scalar.ts";
import { f32x4, i32x4, v128 } from "../wasm/vector.ts";
import { exponential, overflow } from "./exponential.ts";
import type { Lanes } from "./lanes.ts";

// Functions of lines of adjacent f32, called for each row: they share one shape, a loop over vectors and one over the
// elements that are left.

/** The function that a module exports. Under another name it serves other functions of the module. */
export const RUN = "run";

/** A variable that holds an address or a count. */
export type Pointer = Local<"i32">;
/** A variable that holds a vector. */
export type Vector = Local<"v128">;

/**
 * Vectors of one round, where what is done with each is short: enough for the steps of one to run while another waits for
 * its result. Processors overlap rounds too: where there are many steps, one vector does.
 */
export const ROUND = 4;

/** Reads and writes at the pointers: a whole vector, or one element. */
export interface Access {
  /** What lies there; a single element is in all lanes. */
  readonly load: (pointer: Pointer) => V128;
  /** Writes it. */
  readonly store: (pointer: Pointer, value: V128) => Statement;
  /** Zeros in lanes that do not count. */
  readonly only: (value: V128) => V128;
  /** Which of the vectors of a round this is. */
  readonly index: number;
}

/**
 * Statements that do something with every element of lines.
 *
 * @param scope - The function.
 * @param count - How many elements; it counts down.
 * @param pointers - Where the lines start; they advance.
 * @param body - Does it with a vector or an element.
 * @param vectors - Vectors of one round.
 */
export function overElements(
  scope: FunctionScope,
  count: Pointer,
  pointers: readonly Pointer[],
  body: (access: Access) => readonly Statement[],
  vectors: number = ROUND,
): Statement[] {
  const firstLane = scope.constant(i32x4.replaceLane(i32x4.const(0), 0, -1));
  const vector = (index: number): Access => ({
    load: (pointer) => v128.load(pointer, 16 * index),
    store: (pointer, value) => v128.store(pointer, value, 16 * index),
    only: (value) => value,
    index,
  });
  const element: Access = {
    load: (pointer) => v128.load32Splat(pointer),
    store: (pointer, value) => f32.store(pointer, f32x4.extractLane(value, 0)),
    only: (value) => v128.and(value, firstLane),
    index: 0,
  };
  const advance = (elements: number): Statement[] => [
    ...pointers.map((pointer) => increase(pointer, 4 * elements)),
    increase(count, -elements),
  ];
  const enough = i32.geU(count, 4 * vectors);
  const round = Array.from({ length: vectors }, (_, i) => body(vector(i))).flat();
  return [
    when(enough, [repeat(enough, ...round, ...advance(4 * vectors))]),
    until(count, i32.const(0), ...body(element), ...advance(1)),
  ];
}

/**
 * Combines the lanes of a vector into one float.
 *
 * @param vector - The vector.
 * @param both - Combines two floats.
 */
export function reduceLanes(vector: Vector, both: (a: F32, b: F32) => F32): F32 {
  const [a, b, c, d] = [0, 1, 2, 3].map((lane) => f32x4.extractLane(vector, lane));
  return both(both(a!, b!), both(c!, d!));
}

/**
 * Combines vectors into one.
 *
 * @param vectors - The vectors; the first one becomes the result.
 * @param both - Combines two.
 */
export function reduceVectors(
  [first, ...others]: readonly Vector[],
  both: (a: V128, b: V128) => V128,
): Statement[] {
  return others.map((vector) => first!.set(both(first!, vector)));
}

const maximumParameters = { from: "i32", count: "i32" } as const;

/**
 * Adds `(from, count)` to a module: the largest of `count` floats, numbers that are not numbers left out.
 *
 * @param module - Where it goes.
 * @param name - What it is called.
 */
export function defineMaximum(
  module: ModuleBuilder,
  name: string,
): Call<typeof maximumParameters, "f32"> {
  return module.define(name, {
    parameters: maximumParameters,
    exported: name === RUN,
    result: "f32",
    body: (scope, { from, count }) => {
      const largest = scope.locals("v128", ROUND);
      return [
        ...largest.map((vector) => vector.set(f32x4.const(Number.NEGATIVE_INFINITY))),
        ...overElements(scope, count, [from], ({ load, index }) => [
          largest[index]!.set(f32x4.pmax(largest[index]!, load(from))),
        ]),
        ...reduceVectors(largest, f32x4.pmax),
        reduceLanes(largest[0]!, f32.max),
      ];
    },
  });
}

const scaleParameters = { at: "i32", count: "i32", factor: "f32" } as const;

/**
 * Adds `(at, count, factor)` to a module: multiplies floats in place.
 *
 * @param module - Where it goes.
 * @param name - What it is called.
 */
export function defineScale(module: ModuleBuilder, name: string): Call<typeof scaleParameters> {
  return module.define(name, {
    parameters: scaleParameters,
    exported: name === RUN,
    body: (scope, { at, count, factor }) => {
      const factors = scope.local("v128");
      return [
        factors.set(f32x4.splat(factor)),
        ...overElements(scope, count, [at], ({ load, store }) => [
          store(at, f32x4.mul(load(at), factors)),
        ]),
      ];
    },
  });
}

/**
 * Adds `run(at, count, factor)` to a module: multiplies f64 in place.
 *
 * @param module - Where it goes.
 */
export function defineScaleDoubles(module: ModuleBuilder): void {
  module.define(RUN, {
    parameters: { at: "i32", count: "i32", factor: "f64" },
    body: (_, { at, count, factor }) => [
      until(
        count,
        i32.const(0),
        f64.store(at, f64.mul(f64.load(at), factor)),
        increase(at, 8),
        increase(count, -1),
      ),
    ],
  });
}

/** Results of a gate reach down to 2^-126, where the exponential alone would be beyond the range. */
const GATE_POWER = -24;

/**
 * Adds `(gate, up, to, count)` to a module: `silu(gate) * up`, where `silu(x) = x / (1 + exp(-x))`.
 *
 * @param module - Where it goes.
 * @param name - What it is called.
 * @param lanes - f32 lanes.
 */
export function defineGate(module: ModuleBuilder, name: string, lanes: Lanes): void {
  module.define(name, {
    parameters: { gate: "i32", up: "i32", to: "i32", count: "i32" },
    body: (scope, { gate, up, to, count }) => {
      const one = scope.constant(f32x4.const(2 ** GATE_POWER));
      const limit = scope.constant(f32x4.const(overflow(GATE_POWER)));
      return overElements(scope, count, [gate, up, to], ({ load, store }) => {
        const x = scope.local("v128");
        const { before, value } = exponential(scope, lanes, x, GATE_POWER);
        const sigmoid = f32x4.div(one, f32x4.add(value, one));
        return [
          x.set(f32x4.pmin(f32x4.neg(load(gate)), limit)),
          ...before,
          store(to, f32x4.mul(f32x4.mul(load(gate), sigmoid), load(up))),
        ];
      });
    },
  });
}

/** Functions of two floats for which there is a kernel. */
export type Arithmetic = "add" | "sub" | "mul" | "div" | "max" | "min";

/** All of them. */
export const arithmetics: readonly Arithmetic[] = ["add", "sub", "mul", "div", "max", "min"];

/**
 * Adds `(a, b, to, count)` to a module: a function of each two floats, rounded once.
 *
 * @param module - Where it goes.
 * @param fn - The function.
 */
export function defineArithmetic(module: ModuleBuilder, fn: Arithmetic): void {
  module.define(RUN, {
    parameters: { a: "i32", b: "i32", to: "i32", count: "i32" },
    body: (scope, { a, b, to, count }) => {
      return overElements(scope, count, [a, b, to], ({ load, store }) => [
        store(to, f32x4[fn](load(a), load(b))),
      ]);
    },
  });
}
