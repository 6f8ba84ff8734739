import { repeat } from "../wasm/control.ts";
import type { Statement } from "../wasm/expression.ts";
import { increase, type Call, type FunctionScope, type ModuleBuilder } from "../wasm/module.ts";
import { f32, i32 } from "../wasm/scalar.ts";
import { f32x4 } from "../wasm/vector.ts";
import { exponential } from "./exponential.ts";
import type { Lanes } from "./lanes.ts";
import {
  reduceLanes,
  defineMaximum,
  defineScale,
  overElements,
  RUN,
  type Access,
  type Pointer,
  type Vector,
} from "./lines.ts";

const exponentialsParameters = { from: "i32", to: "i32", count: "i32", max: "f32" } as const;

/**
 * Adds `(from, to, count, max)` to a module: `exp(x - max)` of each float, none of which is larger, and their sum.
 *
 * @param module - Where it goes.
 * @param name - What it is called.
 * @param lanes - f32 lanes.
 */
export function defineExponentials(
  module: ModuleBuilder,
  name: string,
  lanes: Lanes,
): Call<typeof exponentialsParameters, "f32"> {
  return module.define(name, {
    parameters: exponentialsParameters,
    exported: name === RUN,
    result: "f32",
    body: (scope, { from, to, count, max }) => {
      const [maxima, sum] = scope.locals("v128", 2) as [Vector, Vector];
      return [
        maxima.set(f32x4.splat(max)),
        ...overElements(
          scope,
          count,
          [from, to],
          (access) => exponentialUnder({ scope, lanes, maxima, sum }, access, from, to),
          1,
        ),
        reduceLanes(sum, f32.add),
      ];
    },
  });
}

/** What exponentials of a line share. */
interface Exponentials {
  readonly scope: FunctionScope;
  readonly lanes: Lanes;
  /** The largest element of the line, in all lanes. */
  readonly maxima: Vector;
  /** The sum of the exponentials, which grows. */
  readonly sum: Vector;
}

/** Writes `exp(x - max)`, and adds it to the sum. */
function exponentialUnder(
  { scope, lanes, maxima, sum }: Exponentials,
  { load, store, only }: Access,
  from: Pointer,
  to: Pointer,
): Statement[] {
  const x = scope.local("v128");
  const { before, value } = exponential(scope, lanes, x);
  return [
    x.set(f32x4.sub(load(from), maxima)),
    ...before,
    x.set(value),
    store(to, x),
    sum.set(f32x4.add(sum, only(x))),
  ];
}

/**
 * Adds a function to a module: the softmax of each row. While the exponentials of a row are computed, the next row comes from
 * memory: its largest element is looked for in the same loop.
 *
 * Parameters: f32 rows `from` and `to`, their elements adjacent, with the bytes from one to the next; how many rows, at
 * least one, and elements of each.
 *
 * @param module - Where it goes.
 * @param name - What it is called.
 * @param lanes - f32 lanes.
 */
export function defineSoftmax(module: ModuleBuilder, name: string, lanes: Lanes): void {
  const maximum = defineMaximum(module, "maximum");
  const scale = defineScale(module, "scale");
  module.define(name, {
    parameters: {
      from: "i32",
      fromBytes: "i32",
      to: "i32",
      toBytes: "i32",
      rows: "i32",
      count: "i32",
    },
    body: (scope, { from, fromBytes, to, toBytes, rows, count }) => {
      const [x, y, next, left] = scope.locals("i32", 4) as [Pointer, Pointer, Pointer, Pointer];
      const [maxima, nextMaxima, sum] = scope.locals("v128", 3) as [Vector, Vector, Vector];
      const isLast = i32.eq(rows, 1);
      return [
        maxima.set(f32x4.splat(maximum({ from, count }))),
        repeat(
          rows,
          x.set(from),
          y.set(to),
          // After the last row there is none to look at.
          next.set(i32.select(isLast, from, i32.add(from, fromBytes))),
          left.set(count),
          sum.set(f32x4.const(0)),
          nextMaxima.set(f32x4.const(Number.NEGATIVE_INFINITY)),
          ...overElements(
            scope,
            left,
            [x, y, next],
            (access) => [
              nextMaxima.set(f32x4.pmax(nextMaxima, access.load(next))),
              ...exponentialUnder({ scope, lanes, maxima, sum }, access, x, y),
            ],
            1,
          ),
          scale({ at: to, count, factor: f32.div(f32.const(1), reduceLanes(sum, f32.add)) }),
          maxima.set(f32x4.splat(reduceLanes(nextMaxima, f32.max))),
          increase(from, fromBytes),
          increase(to, toBytes),
          increase(rows, -1),
        ),
      ];
    },
  });
}
