import { repeat, until, when } from "../wasm/control.ts";
import type { F32, I32, Statement } from "../wasm/expression.ts";
import { increase, type ModuleBuilder } from "../wasm/module.ts";
import { f32, i32 } from "../wasm/scalar.ts";
import { f32x4, v128 } from "../wasm/vector.ts";
import type { I32Local, V128Local } from "./few-rows.ts";
import type { Lanes } from "./lanes.ts";

/** The first and the second elements of pairs that lie one after the other, and back. */
const APART = [
  [0, 2, 4, 6],
  [1, 3, 5, 7],
] as const;
const TOGETHER = [
  [0, 4, 1, 5],
  [2, 6, 3, 7],
] as const;

/**
 * Adds a function to a module: rotates the pairs of each head by angles of its token.
 *
 * Parameters: f32 heads `x` and `to`, their elements adjacent, each with the bytes from one token and from one head to the
 * next; the f32 cosines and sines with the bytes from one token to the next; how many tokens, heads and pairs, at least one
 * each.
 *
 * @param module - Where it goes.
 * @param name - Its name.
 * @param lanes - f32 lanes.
 * @param interleaved - Whether the elements of a pair are neighbours; they are half a head apart otherwise.
 */
export function defineRope(
  module: ModuleBuilder,
  name: string,
  lanes: Lanes,
  interleaved: boolean,
): void {
  module.define(name, {
    parameters: {
      x: "i32",
      xTokenBytes: "i32",
      xHeadBytes: "i32",
      to: "i32",
      toTokenBytes: "i32",
      toHeadBytes: "i32",
      cosines: "i32",
      cosineBytes: "i32",
      sines: "i32",
      sineBytes: "i32",
      tokens: "i32",
      heads: "i32",
      pairs: "i32",
    },
    body: (scope, parameters) => {
      const { x, xHeadBytes, to, toHeadBytes, cosines, sines, tokens, heads, pairs } = parameters;
      const [headsLeft, left, head, target, from, out, cos, sin] = scope.locals("i32", 8) as [
        I32Local,
        I32Local,
        I32Local,
        I32Local,
        I32Local,
        I32Local,
        I32Local,
        I32Local,
      ];
      const [a, b, c, s, first, second] = scope.locals("v128", 6) as [
        V128Local,
        V128Local,
        V128Local,
        V128Local,
        V128Local,
        V128Local,
      ];
      /** From the first element of a pair to the second. */
      const apart = interleaved ? i32.const(4) : i32.shl(pairs, 2);
      const next = (pointer: I32): I32 => i32.add(pointer, apart);
      const advance = (count: number): Statement[] => [
        ...[from, out].map((pointer) => increase(pointer, (interleaved ? 8 : 4) * count)),
        ...[cos, sin].map((pointer) => increase(pointer, 4 * count)),
        increase(left, -count),
      ];
      const rotated = [
        first.set(lanes.multiplyAdd(a, c, f32x4.neg(f32x4.mul(b, s)))),
        second.set(lanes.multiplyAdd(b, c, f32x4.mul(a, s))),
      ];
      const four = [
        c.set(v128.load(cos)),
        s.set(v128.load(sin)),
        ...(interleaved
          ? [
              first.set(v128.load(from)),
              second.set(v128.load(from, 16)),
              a.set(v128.shuffle32(first, second, APART[0])),
              b.set(v128.shuffle32(first, second, APART[1])),
              ...rotated,
              v128.store(out, v128.shuffle32(first, second, TOGETHER[0])),
              v128.store(out, v128.shuffle32(first, second, TOGETHER[1]), 16),
            ]
          : [
              a.set(v128.load(from)),
              b.set(v128.load(next(from))),
              ...rotated,
              v128.store(out, first),
              v128.store(next(out), second),
            ]),
      ];
      const one = [
        c.set(lanes.splat(cos)),
        s.set(lanes.splat(sin)),
        a.set(lanes.splat(from)),
        b.set(lanes.splat(next(from))),
        ...rotated,
        f32.store(out, firstLane(first)),
        f32.store(next(out), firstLane(second)),
      ];
      const enough = i32.geU(left, lanes.count);
      return [
        repeat(
          tokens,
          head.set(x),
          target.set(to),
          headsLeft.set(heads),
          repeat(
            headsLeft,
            from.set(head),
            out.set(target),
            cos.set(cosines),
            sin.set(sines),
            left.set(pairs),
            when(enough, [repeat(enough, ...four, ...advance(lanes.count))]),
            until(left, i32.const(0), ...one, ...advance(1)),
            increase(head, xHeadBytes),
            increase(target, toHeadBytes),
            increase(headsLeft, -1),
          ),
          increase(x, parameters.xTokenBytes),
          increase(to, parameters.toTokenBytes),
          increase(cosines, parameters.cosineBytes),
          increase(sines, parameters.sineBytes),
          increase(tokens, -1),
        ),
      ];
    },
  });
}

const firstLane = (x: V128Local): F32 => f32x4.extractLane(x, 0);
