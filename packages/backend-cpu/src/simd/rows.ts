import { repeat } from "../wasm/control.ts";
import { increase, type ModuleBuilder } from "../wasm/module.ts";
import { f32, f64 } from "../wasm/scalar.ts";
import type { Lanes } from "./lanes.ts";
import {
  defineExponentials,
  defineMaximum,
  defineScale,
  defineSumOfSquares,
  defineWeigh,
} from "./lines.ts";

/**
 * Adds a function to a module: the softmax of each row.
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
  const exponentials = defineExponentials(module, "exponentials", lanes);
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
    body: (_, { from, fromBytes, to, toBytes, rows, count }) => {
      const max = maximum({ from, count });
      const sum = exponentials({ from, to, count, max });
      return [
        repeat(
          rows,
          scale({ at: to, count, factor: f32.div(f32.const(1), sum) }),
          increase(from, fromBytes),
          increase(to, toBytes),
          increase(rows, -1),
        ),
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
