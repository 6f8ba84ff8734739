import { repeat } from "../wasm/control.ts";
import { increase, type Call, type ModuleBuilder } from "../wasm/module.ts";
import { f32, f64 } from "../wasm/scalar.ts";
import { f32x4 } from "../wasm/vector.ts";
import type { Lanes } from "./lanes.ts";
import { reduceLanes, reduceVectors, overElements, ROUND, RUN, type Vector } from "./lines.ts";

const sumOfSquaresParameters = { from: "i32", count: "i32" } as const;

/**
 * Adds `(from, count)` to a module: the sum of the squares.
 *
 * @param module - Where it goes.
 * @param name - What it is called.
 * @param lanes - f32 lanes.
 */
export function defineSumOfSquares(
  module: ModuleBuilder,
  name: string,
  lanes: Lanes,
): Call<typeof sumOfSquaresParameters, "f32"> {
  return module.define(name, {
    parameters: sumOfSquaresParameters,
    exported: name === RUN,
    result: "f32",
    body: (scope, { from, count }) => {
      const sums = scope.locals("v128", ROUND);
      const x = scope.local("v128");
      return [
        ...overElements(scope, count, [from], ({ load, only, index }) => [
          x.set(only(load(from))),
          sums[index]!.set(lanes.multiplyAdd(x, x, sums[index]!)),
        ]),
        ...reduceVectors(sums, f32x4.add),
        reduceLanes(sums[0]!, f32.add),
      ];
    },
  });
}

const weighParameters = {
  from: "i32",
  weight: "i32",
  to: "i32",
  count: "i32",
  factor: "f32",
  offset: "f32",
} as const;

/**
 * Adds `(from, weight, to, count, factor, offset)` to a module: `x * factor * (weight + offset)`.
 *
 * @param module - Where it goes.
 * @param name - What it is called.
 */
export function defineWeigh(module: ModuleBuilder, name: string): Call<typeof weighParameters> {
  return module.define(name, {
    parameters: weighParameters,
    exported: name === RUN,
    body: (scope, { from, weight, to, count, factor, offset }) => {
      const [factors, offsets] = scope.locals("v128", 2) as [Vector, Vector];
      return [
        factors.set(f32x4.splat(factor)),
        offsets.set(f32x4.splat(offset)),
        ...overElements(scope, count, [from, weight, to], ({ load, store }) => [
          store(to, f32x4.mul(f32x4.mul(load(from), factors), f32x4.add(load(weight), offsets))),
        ]),
      ];
    },
  });
}

/**
 * Adds a function to a module: `x / sqrt(mean(x²) + eps) * (weight + offset)` of each row.
 *
 * Parameters: f32 rows `from` and `to` as for the softmax, and the f32 weights; how many rows, at least one, and elements
 * of each; `eps` and the offset.
 *
 * @param module - Where it goes.
 * @param name - What it is called.
 * @param lanes - f32 lanes.
 */
export function defineNorm(module: ModuleBuilder, name: string, lanes: Lanes): void {
  const sumOfSquares = defineSumOfSquares(module, "sumOfSquares", lanes);
  const weigh = defineWeigh(module, "weigh");
  module.define(name, {
    parameters: {
      from: "i32",
      fromBytes: "i32",
      to: "i32",
      toBytes: "i32",
      weight: "i32",
      rows: "i32",
      count: "i32",
      size: "f64",
      eps: "f64",
      offset: "f32",
    },
    body: (_, { from, fromBytes, to, toBytes, weight, rows, count, size, eps, offset }) => {
      const mean = f64.div(f64.promote(sumOfSquares({ from, count })), size);
      const factor = f32.demote(f64.div(f64.const(1), f64.sqrt(f64.add(mean, eps))));
      return [
        repeat(
          rows,
          weigh({ from, weight, to, count, factor, offset }),
          increase(from, fromBytes),
          increase(to, toBytes),
          increase(rows, -1),
        ),
      ];
    },
  });
}
