import { repeat, until, when } from "../wasm/control.ts";
import type { Statement, V128 } from "../wasm/expression.ts";
import { increase, type ModuleBuilder } from "../wasm/module.ts";
import { i32 } from "../wasm/scalar.ts";
import { v128 } from "../wasm/vector.ts";
import { startLines, type I32Local, type V128Local } from "./few-rows.ts";
import type { Lanes } from "./lanes.ts";

/** Lines in one pass: each has a sum and a factor in a register. */
const LINES = 4;

/**
 * Adds the function `run` to a module: `y[i] += a[i, :] · x` and `v += Σ u[i] a[i, :]`, reading `a` once.
 *
 * Parameters: vectors `x` and `v` of `width` elements, `u` and `y` of `lines`, all adjacent; the matrix `a` with the bytes
 * from one line to the next, its elements adjacent; the number of lines and of elements of a line.
 *
 * @param module - Where it goes.
 * @param lanes - What it computes in.
 */
export function defineBoth(module: ModuleBuilder, lanes: Lanes): void {
  module.define("run", {
    parameters: {
      x: "i32",
      y: "i32",
      u: "i32",
      v: "i32",
      a: "i32",
      lineBytes: "i32",
      lines: "i32",
      width: "i32",
    },
    body: (scope, { x, y, u, v, a, lineBytes, lines, width }) => {
      const [left, xAt, vAt] = scope.locals("i32", 3) as [I32Local, I32Local, I32Local];
      const pointers = scope.locals("i32", LINES);
      const sums = scope.locals("v128", LINES);
      const factors = scope.locals("v128", LINES);
      const [element, one, total] = scope.locals("v128", 3) as [V128Local, V128Local, V128Local];
      const columns = (count: number, whole: boolean): Statement[] => {
        const load = (at: I32Local): V128 => (whole ? v128.load(at) : lanes.loadFirst(at));
        const step = whole ? lanes.count : 1;
        return [
          one.set(load(xAt)),
          total.set(load(vAt)),
          ...pointers
            .slice(0, count)
            .flatMap((line, i) => [
              element.set(load(line)),
              sums[i]!.set(lanes.multiplyAdd(element, one, sums[i]!)),
              total.set(lanes.multiplyAdd(element, factors[i]!, total)),
              increase(line, step * lanes.bytes),
            ]),
          whole ? v128.store(vAt, total) : lanes.storeFirst(vAt, total),
          increase(xAt, step * lanes.bytes),
          increase(vAt, step * lanes.bytes),
          increase(left, -step),
        ];
      };
      const pass = (count: number): Statement[] => {
        const isWhole = i32.geU(left, lanes.count);
        return [
          ...startLines(pointers.slice(0, count), a, lineBytes),
          ...factors
            .slice(0, count)
            .map((factor, i) => factor.set(lanes.splat(u, i * lanes.bytes))),
          ...sums.slice(0, count).map((sum) => sum.set(lanes.zero())),
          xAt.set(x),
          vAt.set(v),
          left.set(width),
          when(isWhole, [repeat(isWhole, ...columns(count, true))]),
          until(left, i32.const(0), ...columns(count, false)),
          ...sums.slice(0, count).map((sum, i) => {
            const before = lanes.loadFirst(y, i * lanes.bytes);
            return lanes.storeFirst(y, lanes.add(lanes.sum(sum), before), i * lanes.bytes);
          }),
          increase(a, i32.mul(lineBytes, count)),
          increase(u, count * lanes.bytes),
          increase(y, count * lanes.bytes),
          increase(lines, -count),
        ];
      };
      const enough = i32.geU(lines, LINES);
      return [
        when(enough, [repeat(enough, ...pass(LINES))]),
        until(lines, i32.const(0), ...pass(1)),
      ];
    },
  });
}
