import { BLOCK_SIZE, blockBytes, type BlockDType } from "@transmla/core";

import { until } from "../wasm/control.ts";
import type { I32, Statement, V128 } from "../wasm/expression.ts";
import { increase, type FunctionScope, type ModuleBuilder } from "../wasm/module.ts";
import { f32, i32 } from "../wasm/scalar.ts";
import { f32x4, i16x8, i32x4, i8x16, v128 } from "../wasm/vector.ts";
import { finish } from "./dots.ts";
import { commonParameters, startLines, type I32Local, type V128Local } from "./few-rows.ts";
import type { Lanes } from "./lanes.ts";

// Rows that meet blocks are rounded to blocks of their own: 32 integers of 16 bits, then an f32 scale. Products of integers
// are summed in i32, which holds 32 * 127 * 32767, and scaled once for each block: instructions that multiply i16 do the work
// of two that multiply f32.

/** Bytes of a block of a rounded row; the last twelve are not used. */
export const ROUNDED_BYTES = 80;
const SCALE_AT = 64;

/** Eight vectors hold 32 f32, and four hold 32 i16. */
const INTEGER_VECTORS = [0, 1, 2, 3] as const;

/**
 * Adds `run(from, to, blocks)` to a module: rounds adjacent f32 to blocks of 16-bit integers.
 *
 * @param module - Where it goes.
 */
export function defineRoundRow(module: ModuleBuilder): void {
  module.define("run", {
    parameters: { from: "i32", to: "i32", blocks: "i32" },
    body: (scope, { from, to, blocks }) => {
      const x = scope.locals("v128", 8);
      const [largest, inverse] = scope.locals("v128", 2) as [V128Local, V128Local];
      const scale = scope.local("f32");
      const lane = (index: number) => f32x4.extractLane(largest, index);
      const integers = (vector: V128Local): V128 =>
        i32x4.truncF32(f32x4.nearest(f32x4.mul(vector, inverse)));
      return [
        until(
          blocks,
          i32.const(0),
          ...x.map((vector, i) => vector.set(v128.load(from, 16 * i))),
          // Where all are 0, the inverse has to stay finite.
          largest.set(f32x4.const(2 ** -100)),
          ...x.map((vector) => largest.set(f32x4.pmax(largest, f32x4.abs(vector)))),
          scale.set(
            f32.mul(
              f32.max(f32.max(lane(0), lane(1)), f32.max(lane(2), lane(3))),
              f32.const(1 / 32_767),
            ),
          ),
          inverse.set(f32x4.splat(f32.div(f32.const(1), scale))),
          ...INTEGER_VECTORS.map((i) =>
            v128.store(to, i16x8.narrow32S(integers(x[2 * i]!), integers(x[2 * i + 1]!)), 16 * i),
          ),
          f32.store(to, scale, SCALE_AT),
          increase(from, 4 * BLOCK_SIZE),
          increase(to, ROUNDED_BYTES),
          increase(blocks, -1),
        ),
      ];
    },
  });
}

/** The 32 integers of a block as four vectors of i16, in order, with the steps that come first. */
function loadIntegers(
  scope: FunctionScope,
  dtype: BlockDType,
  block: I32,
): { readonly before: readonly Statement[]; readonly vectors: readonly V128[] } {
  const [low, high] = scope.locals("v128", 2) as [V128Local, V128Local];
  const vectors = [low, high].flatMap((half) => [
    i16x8.extendLow8S(half),
    i16x8.extendHigh8S(half),
  ]);
  if (dtype === "q8") {
    return { before: [low.set(v128.load(block, 4)), high.set(v128.load(block, 20))], vectors };
  }
  const eight = scope.constant(i8x16.const(8));
  const fifteen = scope.constant(i8x16.const(15));
  return {
    before: [
      high.set(v128.load(block, 4)),
      low.set(i8x16.sub(v128.and(high, fifteen), eight)),
      high.set(i8x16.sub(i8x16.shrU(high, 4), eight)),
    ],
    vectors,
  };
}

/**
 * Adds the function `run` to a module: `y[i, j] = x[i, :] · w[j, :]`, or `y +=` it, one line after the other.
 *
 * Parameters: rounded rows `x` and lines `w` of blocks; the f32 results `y` with the bytes from one row and one column to
 * the next; the number of lines and of blocks of a line; whether to add.
 *
 * @param module - Where it goes.
 * @param lanes - f32 lanes.
 * @param dtype - What `w` is stored in.
 * @param rows - Rows of `x`.
 */
export function defineBlockDots(
  module: ModuleBuilder,
  lanes: Lanes,
  dtype: BlockDType,
  rows: number,
): void {
  module.define("run", {
    parameters: {
      ...commonParameters,
      yColumnBytes: "i32",
      lines: "i32",
      blocks: "i32",
      accumulate: "i32",
    },
    body: (scope, { x, xRowBytes, w, lineBytes, y, yRowBytes, yColumnBytes, ...rest }) => {
      const { lines, blocks, accumulate } = rest;
      const [line, left] = scope.locals("i32", 2) as [I32Local, I32Local];
      const xRows = scope.locals("i32", rows);
      const yRows = scope.locals("i32", rows);
      const sums = scope.locals("v128", rows);
      return [
        ...startLines(yRows, y, yRowBytes),
        until(
          lines,
          i32.const(0),
          ...sums.map((sum) => sum.set(lanes.zero())),
          ...startLines(xRows, x, xRowBytes),
          line.set(w),
          left.set(blocks),
          until(
            left,
            i32.const(0),
            ...addBlock({ scope, lanes, dtype, xRows, line, sums }),
            ...xRows.map((row) => increase(row, ROUNDED_BYTES)),
            increase(line, blockBytes[dtype]),
            increase(left, -1),
          ),
          ...sums.flatMap((sum, i) => finish(lanes, [sum], yRows[i]!, accumulate)),
          ...yRows.map((row) => increase(row, yColumnBytes)),
          increase(w, lineBytes),
          increase(lines, -1),
        ),
      ];
    },
  });
}

interface BlockDots {
  readonly scope: FunctionScope;
  readonly lanes: Lanes;
  readonly dtype: BlockDType;
  readonly xRows: readonly I32Local[];
  readonly line: I32Local;
  /** Of each row. */
  readonly sums: readonly V128Local[];
}

/** One block of a line with one of every row. */
function addBlock({ scope, lanes, dtype, xRows, line, sums }: BlockDots): Statement[] {
  const weights = scope.locals("v128", 4);
  const [scale, product] = scope.locals("v128", 2) as [V128Local, V128Local];
  const { before, vectors } = loadIntegers(scope, dtype, line);
  return [
    ...before,
    scale.set(v128.load32Splat(line)),
    ...vectors.map((vector, i) => weights[i]!.set(vector)),
    ...sums.flatMap((sum, row) => {
      const x = xRows[row]!;
      const products = weights.map((four, i) => i32x4.dot16S(four, v128.load(x, 16 * i)));
      const scales = f32x4.mul(scale, v128.load32Splat(x, SCALE_AT));
      return [
        product.set(products.reduce((total, term) => i32x4.add(total, term))),
        sum.set(lanes.multiplyAdd(f32x4.convertI32(product), scales, sum)),
      ];
    }),
  ];
}

/**
 * Adds `run(from, lineBytes, to, lines, blocks)` to a module: widens lines of so many blocks to f32, one line after the
 * other.
 *
 * @param module - Where it goes.
 * @param dtype - What is stored.
 */
export function defineWidenBlocks(module: ModuleBuilder, dtype: BlockDType): void {
  module.define("run", {
    parameters: { from: "i32", lineBytes: "i32", to: "i32", lines: "i32", blocks: "i32" },
    body: (scope, { from, lineBytes, to, lines, blocks }) => {
      const [scale, integers] = scope.locals("v128", 2) as [V128Local, V128Local];
      const [at, left] = scope.locals("i32", 2) as [I32Local, I32Local];
      const { before, vectors } = loadIntegers(scope, dtype, at);
      const scaled = (four: V128): V128 => f32x4.mul(f32x4.convertI32(four), scale);
      return [
        until(
          lines,
          i32.const(0),
          at.set(from),
          left.set(blocks),
          until(
            left,
            i32.const(0),
            scale.set(v128.load32Splat(at)),
            ...before,
            ...vectors.flatMap((vector, i) => [
              integers.set(vector),
              v128.store(to, scaled(i32x4.extendLow16S(integers)), 32 * i),
              v128.store(to, scaled(i32x4.extendHigh16S(integers)), 32 * i + 16),
            ]),
            increase(at, blockBytes[dtype]),
            increase(to, 4 * BLOCK_SIZE),
            increase(left, -1),
          ),
          increase(from, lineBytes),
          increase(lines, -1),
        ),
      ];
    },
  });
}
