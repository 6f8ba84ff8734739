import { repeat, until, when } from "../wasm/control.ts";
import type { Int, I32 } from "../wasm/expression.ts";
import { increase, type ModuleBuilder } from "../wasm/module.ts";
import { f32, i32 } from "../wasm/scalar.ts";
import { f32x4 } from "../wasm/vector.ts";
import type { I32Local } from "./few-rows.ts";
import type { Lanes } from "./lanes.ts";
import { defineMaximum, defineScale, overElements } from "./lines.ts";
import { defineExponentials } from "./softmax.ts";

const smallerSigned = (a: I32, b: Int): I32 => i32.select(i32.ltS(a, b), a, b);

/**
 * Adds a function to a module: turns the scores of each row into exponentials under its running maximum, and into 0 where
 * it may not look; and makes what it has gathered so far match that maximum (Milakov & Gimelshein 2018).
 *
 * Parameters: rows of f32 scores with the bytes from one to the next, how many rows, at least one, and scores of each; how
 * many rows belong to one token; the first score that the rows of the first token see, and the one after the last, either of
 * which may lie outside the row: each token sees one further than the one before it. Then an f32 of each row for the largest
 * score so far, one for the sum of the exponentials, and its sums of values with the bytes from one row to the next and the
 * elements of each; and whether these are the first scores, before which nothing has been gathered.
 *
 * @param module - Where it goes.
 * @param name - Its name.
 * @param lanes - f32 lanes.
 */
export function defineAttend(module: ModuleBuilder, name: string, lanes: Lanes): void {
  const maximum = defineMaximum(module, "maximum");
  const exponentials = defineExponentials(module, "exponentials", lanes);
  const scale = defineScale(module, "scale");
  const clear = module.define("clear", {
    parameters: { at: "i32", count: "i32" },
    exported: false,
    body: (_, { at, count }) => [
      until(count, i32.const(0), f32.store(at, f32.const(0)), increase(at, 4), increase(count, -1)),
    ],
  });
  module.define(name, {
    parameters: {
      scores: "i32",
      scoreBytes: "i32",
      rows: "i32",
      width: "i32",
      perToken: "i32",
      begin: "i32",
      end: "i32",
      maxima: "i32",
      sums: "i32",
      mixed: "i32",
      mixedBytes: "i32",
      valueWidth: "i32",
      first: "i32",
    },
    body: (scope, parameters) => {
      const { scores, scoreBytes, rows, width, perToken, begin, end } = parameters;
      const { maxima, sums, mixed, mixedBytes, valueWidth, first } = parameters;
      const [ofToken, from, to, at] = scope.locals("i32", 4) as [
        I32Local,
        I32Local,
        I32Local,
        I32Local,
      ];
      const [max, sum, factor] = [scope.local("f32"), scope.local("f32"), scope.local("f32")];
      const lowest = f32.const(Number.NEGATIVE_INFINITY);
      const floats = (count: I32): I32 => i32.shl(count, 2);
      return [
        ofToken.set(perToken),
        repeat(
          rows,
          to.set(smallerSigned(end, width)),
          to.set(i32.select(i32.ltS(to, 0), 0, to)),
          from.set(smallerSigned(begin, to)),
          from.set(i32.select(i32.ltS(from, 0), 0, from)),
          at.set(i32.add(scores, floats(from))),
          when(first, [f32.store(maxima, lowest), f32.store(sums, f32.const(0))]),
          max.set(f32.max(f32.load(maxima), maximum({ from: at, count: i32.sub(to, from) }))),
          when(
            f32.eq(max, lowest),
            [clear({ at: scores, count: width })],
            [
              clear({ at: scores, count: from }),
              clear({ at: i32.add(scores, floats(to)), count: i32.sub(width, to) }),
              sum.set(exponentials({ from: at, to: at, count: i32.sub(to, from), max })),
              factor.set(exponentials({ from: maxima, to: maxima, count: i32.const(1), max })),
              f32.store(maxima, max),
              f32.store(sums, f32.add(f32.mul(f32.load(sums), factor), sum)),
              when(i32.eqz(i32.add(first, f32.eq(factor, f32.const(1)))), [
                scale({ at: mixed, count: valueWidth, factor }),
              ]),
            ],
          ),
          increase(scores, scoreBytes),
          increase(maxima, 4),
          increase(sums, 4),
          increase(mixed, mixedBytes),
          increase(rows, -1),
          increase(ofToken, -1),
          when(i32.eqz(ofToken), [ofToken.set(perToken), increase(begin, 1), increase(end, 1)]),
        ),
      ];
    },
  });
}

/**
 * Adds a function to a module: divides each row by a number.
 *
 * Parameters: f32 rows `from` and `to`, their elements adjacent, with the bytes from one to the next; the f32 divisors of
 * the rows with the bytes from one to the next; how many rows, at least one, and elements of each.
 *
 * @param module - Where it goes.
 * @param name - Its name.
 */
export function defineDivide(module: ModuleBuilder, name: string): void {
  module.define(name, {
    parameters: {
      from: "i32",
      fromBytes: "i32",
      to: "i32",
      toBytes: "i32",
      divisors: "i32",
      divisorBytes: "i32",
      rows: "i32",
      count: "i32",
    },
    body: (scope, { from, fromBytes, to, toBytes, divisors, divisorBytes, rows, count }) => {
      const [source, target, left] = scope.locals("i32", 3) as [I32Local, I32Local, I32Local];
      const factors = scope.local("v128");
      return [
        repeat(
          rows,
          source.set(from),
          target.set(to),
          left.set(count),
          factors.set(f32x4.splat(f32.div(f32.const(1), f32.load(divisors)))),
          ...overElements(scope, left, [source, target], ({ load, store }) => [
            store(target, f32x4.mul(load(source), factors)),
          ]),
          increase(from, fromBytes),
          increase(to, toBytes),
          increase(divisors, divisorBytes),
          increase(rows, -1),
        ),
      ];
    },
  });
}
