import { repeat, until, when } from "../wasm/control.ts";
import type { Statement } from "../wasm/expression.ts";
import { increase, type FunctionScope, type ModuleBuilder } from "../wasm/module.ts";
import { i32 } from "../wasm/scalar.ts";
import { v128 } from "../wasm/vector.ts";
import { commonParameters, startLines, type I32Local, type V128Local } from "./few-rows.ts";
import type { Format } from "./formats.ts";
import type { Lanes } from "./lanes.ts";

/** Sums in registers: of each row as many as hide the latency of an addition. */
const SUMS = 8;

/**
 * Adds the function `run` to a module: `y[i, j] = x[i, :] · w[j, :]`, or `y +=` it. Lines are read one after the other:
 * weights come from memory, which delivers one stream twice as fast as several that lie close together.
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
      const [line, left] = scope.locals("i32", 2) as [I32Local, I32Local];
      const xRows = scope.locals("i32", rows);
      const yRows = scope.locals("i32", rows);
      const sums = xRows.map(() => scope.locals("v128", SUMS / rows));
      const dots = { scope, lanes, format, xRows, line, sums };
      return [
        ...startLines(yRows, y, yRowBytes),
        until(
          lines,
          i32.const(0),
          ...sums.flat().map((sum) => sum.set(lanes.zero())),
          ...startLines(xRows, x, xRowBytes),
          line.set(w),
          left.set(depth),
          ...manyElements(dots, left),
          until(left, i32.const(0), ...oneElement(dots), increase(left, -1)),
          ...sums.flatMap((row, i) => finish(lanes, row, yRows[i]!, accumulate)),
          ...yRows.map((row) => increase(row, yColumnBytes)),
          increase(w, lineBytes),
          increase(lines, -1),
        ),
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
  to: I32Local,
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
  readonly line: I32Local;
  /** Of each row. */
  readonly sums: readonly (readonly V128Local[])[];
}

/** As many vectors at a time as there are sums, while there are as many elements. */
function manyElements(dots: Dots, left: I32Local): Statement[] {
  const { lanes, format, xRows, line, sums } = dots;
  const vectors = sums[0]!.length;
  const elements = vectors * lanes.count;
  const remains = i32.geU(left, elements);
  // Four rows would be divided four times: in order they cost less.
  const pairs = xRows.length < 4 ? format.loadEvenOdd : undefined;
  const add = sums[0]!.flatMap((_, index) => {
    if (!pairs) return addVector(dots, index);
    return index % 2 === 0 ? addEvenOdd(dots, pairs, index) : [];
  });
  return [
    when(remains, [
      repeat(
        remains,
        ...add,
        ...xRows.map((row) => increase(row, elements * lanes.bytes)),
        increase(line, elements * format.bytes),
        increase(left, -elements),
      ),
    ]),
  ];
}

/** The vector with this index. */
function addVector({ scope, lanes, format, xRows, line, sums }: Dots, index: number): Statement[] {
  const w = scope.local("v128");
  const { before, value } = format.load(scope, line, index * lanes.count * format.bytes);
  return [
    ...before,
    w.set(value),
    ...sums.map((row, i) => {
      const sum = row[index]!;
      return sum.set(lanes.multiplyAdd(v128.load(xRows[i]!, 16 * index), w, sum));
    }),
  ];
}

/** Two vectors from this index on, divided into even and odd elements. */
function addEvenOdd(
  { scope, lanes, format, xRows, line, sums }: Dots,
  load: NonNullable<Format["loadEvenOdd"]>,
  index: number,
): Statement[] {
  const [low, high] = scope.locals("v128", 2) as [V128Local, V128Local];
  const { before, value } = load(scope, line, index * lanes.count * format.bytes);
  return [
    ...before,
    ...sums.flatMap((row, i) => [
      low.set(v128.load(xRows[i]!, 16 * index)),
      high.set(v128.load(xRows[i]!, 16 * index + 16)),
      ...[v128.shuffle32(low, high, [0, 2, 4, 6]), v128.shuffle32(low, high, [1, 3, 5, 7])].map(
        (x, odd) => {
          const sum = row[index + odd]!;
          return sum.set(lanes.multiplyAdd(x, value[odd]!, sum));
        },
      ),
    ]),
  ];
}

/** One element. */
function oneElement({ scope, lanes, format, xRows, line, sums }: Dots): Statement[] {
  const w = scope.local("v128");
  const { before, value } = format.loadFirst(scope, line);
  return [
    ...before,
    w.set(value),
    ...sums.map(([sum], i) => {
      return sum!.set(lanes.multiplyAdd(lanes.loadFirst(xRows[i]!), w, sum!));
    }),
    ...xRows.map((row) => increase(row, lanes.bytes)),
    increase(line, format.bytes),
  ];
}
