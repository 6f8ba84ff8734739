import { repeat, until, when } from "../wasm/control.ts";
import type { Statement } from "../wasm/expression.ts";
import { increase, type FunctionScope, type ModuleBuilder } from "../wasm/module.ts";
import { i32 } from "../wasm/scalar.ts";
import { v128 } from "../wasm/vector.ts";
import {
  commonParameters,
  IN_FLIGHT,
  startLines,
  type I32Local,
  type V128Local,
} from "./few-rows.ts";
import type { Format } from "./formats.ts";
import type { Lanes } from "./lanes.ts";

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
      const most = IN_FLIGHT / rows;
      const [left, to] = scope.locals("i32", 2) as [I32Local, I32Local];
      const xRows = scope.locals("i32", rows);
      const yRows = scope.locals("i32", rows);
      const wLines = scope.locals("i32", most);
      const total = scope.local("v128");
      const pass = (count: number): Statement[] => {
        const inPass = wLines.slice(0, count);
        const sums = xRows.map(() => scope.locals("v128", count));
        const operands = { scope, lanes, format, xRows, wLines: inPass, sums };
        const finish = sums.flatMap((row, i) => [
          to.set(yRows[i]!),
          ...row.flatMap((sum) => [
            total.set(lanes.sum(sum)),
            when(accumulate, [total.set(lanes.add(total, lanes.loadFirst(to)))]),
            lanes.storeFirst(to, total),
            increase(to, yColumnBytes),
          ]),
        ]);
        return [
          ...sums.flat().map((sum) => sum.set(lanes.zero())),
          ...startLines(yRows, y, yRowBytes),
          ...startLines(xRows, x, xRowBytes),
          ...startLines(inPass, w, lineBytes),
          left.set(depth),
          ...manyElements(operands, left),
          until(left, i32.const(0), ...oneElement(operands), increase(left, -1)),
          ...finish,
          increase(w, i32.mul(lineBytes, count)),
          increase(y, i32.mul(yColumnBytes, count)),
          increase(lines, -count),
        ];
      };
      const enough = i32.geU(lines, most);
      return [
        when(enough, [repeat(enough, ...pass(most))]),
        until(lines, i32.const(0), ...pass(1)),
      ];
    },
  });
}

interface Dots {
  readonly scope: FunctionScope;
  readonly lanes: Lanes;
  readonly format: Format;
  readonly xRows: readonly I32Local[];
  readonly wLines: readonly I32Local[];
  /** By row of `x` and line of `w`. */
  readonly sums: readonly (readonly V128Local[])[];
}

/** Two vectors of every line at a time, while there are as many elements. */
function manyElements(operands: Dots, left: I32Local): Statement[] {
  const { lanes, format, xRows, wLines } = operands;
  const elements = 2 * lanes.count;
  const remains = i32.geU(left, elements);
  // Even and odd elements take two registers for each row, of which four rows have too many.
  const addElements =
    format.loadEvenOdd && xRows.length < 4
      ? addEvenOdd(operands, format.loadEvenOdd)
      : [...addVector(operands, 0), ...addVector(operands, 1)];
  return [
    when(remains, [
      repeat(
        remains,
        ...addElements,
        ...xRows.map((row) => increase(row, elements * lanes.bytes)),
        ...wLines.map((line) => increase(line, elements * format.bytes)),
        increase(left, -elements),
      ),
    ]),
  ];
}

/** The vector with this index of every line. */
function addVector(
  { scope, lanes, format, xRows, wLines, sums }: Dots,
  index: number,
): Statement[] {
  const x = scope.locals("v128", xRows.length);
  const w = scope.local("v128");
  return [
    ...x.map((vector, i) => vector.set(v128.load(xRows[i]!, 16 * index))),
    ...wLines.flatMap((line, j) => {
      const { before, value } = format.load(scope, line, index * lanes.count * format.bytes);
      return [
        ...before,
        w.set(value),
        ...sums.map((row, i) => row[j]!.set(lanes.multiplyAdd(x[i]!, w, row[j]!))),
      ];
    }),
  ];
}

/** Two vectors of every line, divided into even and odd elements. */
function addEvenOdd(
  { scope, lanes, xRows, wLines, sums }: Dots,
  load: NonNullable<Format["loadEvenOdd"]>,
): Statement[] {
  const even = scope.locals("v128", xRows.length);
  const odd = scope.locals("v128", xRows.length);
  const [low, high] = scope.locals("v128", 2) as [V128Local, V128Local];
  return [
    ...xRows.flatMap((row, i) => [
      low.set(v128.load(row, 0)),
      high.set(v128.load(row, 16)),
      even[i]!.set(v128.shuffle32(low, high, [0, 2, 4, 6])),
      odd[i]!.set(v128.shuffle32(low, high, [1, 3, 5, 7])),
    ]),
    ...wLines.flatMap((line, j) => {
      const { before, value } = load(scope, line);
      return [
        ...before,
        ...sums.map((row, i) => row[j]!.set(lanes.multiplyAdd(even[i]!, value[0], row[j]!))),
        ...sums.map((row, i) => row[j]!.set(lanes.multiplyAdd(odd[i]!, value[1], row[j]!))),
      ];
    }),
  ];
}

/** One element of every line. */
function oneElement({ scope, lanes, format, xRows, wLines, sums }: Dots): Statement[] {
  const w = scope.local("v128");
  return [
    ...wLines.flatMap((line, j) => {
      const { before, value } = format.loadFirst(scope, line);
      return [
        ...before,
        w.set(value),
        ...sums.map((row, i) => {
          return row[j]!.set(lanes.multiplyAdd(lanes.loadFirst(xRows[i]!), w, row[j]!));
        }),
      ];
    }),
    ...xRows.map((row) => increase(row, lanes.bytes)),
    ...wLines.map((line) => increase(line, format.bytes)),
  ];
}
