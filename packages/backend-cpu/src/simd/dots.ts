import { repeat, until, when } from "../wasm/control.ts";
import type { I32, Statement } from "../wasm/expression.ts";
import { increase, type FunctionScope, type ModuleBuilder } from "../wasm/module.ts";
import { i32 } from "../wasm/scalar.ts";
import { v128 } from "../wasm/vector.ts";
import {
  commonParameters,
  overStreams,
  startLines,
  type I32Local,
  type V128Local,
} from "./few-rows.ts";
import type { Format } from "./formats.ts";
import type { Lanes } from "./lanes.ts";

/** Lines in one pass. With one row, pairs of vectors from two lines fill the registers. */
function streamsFor({ loadEvenOdd }: Format, rows: number): 2 | 4 {
  return rows === 4 || (rows === 1 && loadEvenOdd) ? 2 : 4;
}

/** Sums of one row and line, in registers: enough in all to hide the latency of an addition. */
function sumsFor({ fused }: Lanes, streams: number, rows: number): number {
  return Math.max(1, (fused ? 8 : 4) / rows / streams);
}

/**
 * Adds the function `run` to a module: `y[i, j] = x[i, :] · w[j, :]`, or `y +=` it.
 *
 * Parameters: f32 rows `x` and stored lines `w`, their elements adjacent; the f32 results `y` with the bytes from one row
 * and one column to the next; the number of lines and of elements of a line; whether to add.
 *
 * @param module - Where it goes.
 * @param lanes - What it computes in: f32.
 * @param format - What `w` is stored in.
 * @param rows - Rows of `x`.
 */
export function defineDots(
  module: ModuleBuilder,
  lanes: Lanes,
  format: Format,
  rows: number,
): void {
  module.define("run", {
    parameters: {
      ...commonParameters,
      yColumnBytes: "i32",
      lines: "i32",
      depth: "i32",
      accumulate: "i32",
    },
    body: (scope, { x, xRowBytes, w, lineBytes, y, yRowBytes, yColumnBytes, ...rest }) => {
      const { lines, depth, accumulate } = rest;
      const left = scope.local("i32");
      const xRows = scope.locals("i32", rows);
      const yRows = scope.locals("i32", rows);
      const streams = streamsFor(format, rows);
      const wLines = scope.locals("i32", streams);
      const walks = [
        { pointers: [w], step: lineBytes },
        { pointers: yRows, step: yColumnBytes },
      ];
      return [
        ...startLines(yRows, y, yRowBytes),
        ...overStreams(scope, lines, streams, walks, (count, [wGap, yGap]) => {
          const inPass = wLines.slice(0, count);
          const sums = xRows.map(() => {
            return inPass.map(() => scope.locals("v128", sumsFor(lanes, count, rows)));
          });
          const dots = { scope, lanes, format, xRows, wLines: inPass, sums };
          return [
            ...sums.flat(2).map((sum) => sum.set(lanes.zero())),
            ...startLines(xRows, x, xRowBytes),
            ...startLines(inPass, w, wGap!),
            left.set(depth),
            ...manyElements(dots, left),
            until(left, i32.const(0), ...oneElement(dots), increase(left, -1)),
            ...yRows.flatMap((row, i) =>
              sums[i]!.flatMap((line, j) => {
                return finish(lanes, line, i32.add(row, i32.mul(yGap!, j)), accumulate);
              }),
            ),
          ];
        }),
      ];
    },
  });
}

/**
 * Adds the sums of a row up and writes the result, or adds it to what is there.
 *
 * @param lanes - What is summed.
 * @param sums - Vectors; the first one changes.
 * @param to - Where the result goes.
 * @param accumulate - Whether to add.
 */
export function finish(
  lanes: Lanes,
  sums: readonly V128Local[],
  to: I32,
  accumulate: I32Local,
): Statement[] {
  const [total, ...others] = sums as [V128Local, ...V128Local[]];
  return [
    ...others.map((sum) => total.set(lanes.add(total, sum))),
    total.set(lanes.sum(total)),
    when(accumulate, [total.set(lanes.add(total, lanes.loadFirst(to)))]),
    lanes.storeFirst(to, total),
  ];
}

interface Dots {
  readonly scope: FunctionScope;
  readonly lanes: Lanes;
  readonly format: Format;
  readonly xRows: readonly I32Local[];
  readonly wLines: readonly I32Local[];
  /** Of each row and line. */
  readonly sums: readonly (readonly (readonly V128Local[])[])[];
}

/** As many vectors at a time as there are sums, while there are as many elements. */
function manyElements(dots: Dots, left: I32Local): Statement[] {
  const { lanes, format, xRows, wLines, sums } = dots;
  const vectors = sums[0]![0]!.length;
  const elements = vectors * lanes.count;
  const remains = i32.geU(left, elements);
  const pairs = vectors % 2 === 0 ? format.loadEvenOdd : undefined;
  const add = sums[0]![0]!.flatMap((_, index) => {
    if (!pairs) return addVector(dots, index);
    return index % 2 === 0 ? addEvenOdd(dots, pairs, index) : [];
  });
  return [
    when(remains, [
      repeat(
        remains,
        ...add,
        ...xRows.map((row) => increase(row, elements * lanes.bytes)),
        ...wLines.map((line) => increase(line, elements * format.bytes)),
        increase(left, -elements),
      ),
    ]),
  ];
}

/** The vector with this index. */
function addVector(
  { scope, lanes, format, xRows, wLines, sums }: Dots,
  index: number,
): Statement[] {
  const w = scope.locals("v128", wLines.length);
  const x = scope.local("v128");
  return [
    ...wLines.flatMap((line, j) => {
      const { before, value } = format.load(scope, line, index * lanes.count * format.bytes);
      return [...before, w[j]!.set(value)];
    }),
    ...sums.flatMap((row, i) => [
      x.set(v128.load(xRows[i]!, 16 * index)),
      ...row.map((line, j) => line[index]!.set(lanes.multiplyAdd(x, w[j]!, line[index]!))),
    ]),
  ];
}

/** Two vectors from this index on, divided into even and odd elements. */
function addEvenOdd(
  { scope, lanes, format, xRows, wLines, sums }: Dots,
  load: NonNullable<Format["loadEvenOdd"]>,
  index: number,
): Statement[] {
  const [low, high, even, odd] = scope.locals("v128", 4) as [
    V128Local,
    V128Local,
    V128Local,
    V128Local,
  ];
  const w = wLines.map((line) => load(scope, line, index * lanes.count * format.bytes));
  return [
    ...w.flatMap(({ before }) => before),
    ...sums.flatMap((row, i) => [
      low.set(v128.load(xRows[i]!, 16 * index)),
      high.set(v128.load(xRows[i]!, 16 * index + 16)),
      even.set(v128.shuffle32(low, high, [0, 2, 4, 6])),
      odd.set(v128.shuffle32(low, high, [1, 3, 5, 7])),
      ...row.flatMap((line, j) => {
        return [even, odd].map((x, parity) => {
          const sum = line[index + parity]!;
          return sum.set(lanes.multiplyAdd(x, w[j]!.value[parity]!, sum));
        });
      }),
    ]),
  ];
}

/** One element. */
function oneElement({ scope, lanes, format, xRows, wLines, sums }: Dots): Statement[] {
  const w = scope.local("v128");
  return [
    ...wLines.flatMap((line, j) => {
      const { before, value } = format.loadFirst(scope, line);
      return [
        ...before,
        w.set(value),
        ...sums.map((row, i) => {
          const sum = row[j]![0]!;
          return sum.set(lanes.multiplyAdd(lanes.loadFirst(xRows[i]!), w, sum));
        }),
      ];
    }),
    ...xRows.map((row) => increase(row, lanes.bytes)),
    ...wLines.map((line) => increase(line, format.bytes)),
  ];
}
