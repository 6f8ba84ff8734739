import { repeat, until, when } from "../wasm/control.ts";
import type { Statement } from "../wasm/expression.ts";
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

/** Lines of `w` in one pass, at most. */
const STREAMS = 4;

/** Lines in one pass times rows of `x`: factors in registers. */
const FACTORS = 8;

/**
 * Vectors of a row of `y` in one step times rows: sums in registers. With one row that is a cache line of f32: lines of `w` lie
 * a power of two apart more often than not, where they push each other out of the cache before a second visit.
 */
const SUMS = 4;

/**
 * Adds the function `run` to a module: `y[i, :] += Σ x[i, p] w[p, :]`.
 *
 * Parameters: f32 rows `x` with the bytes from one row and one element to the next; stored lines `w` and f32 rows `y`, the
 * elements of both adjacent; the number of lines and of elements of a line.
 *
 * @param module - Where it goes.
 * @param lanes - What it computes in: f32.
 * @param format - What `w` is stored in.
 * @param rows - Rows of `x`.
 */
export function defineCombine(
  module: ModuleBuilder,
  lanes: Lanes,
  format: Format,
  rows: number,
): void {
  module.define("run", {
    parameters: { ...commonParameters, xColumnBytes: "i32", lines: "i32", width: "i32" },
    body: (scope, { x, xRowBytes, w, lineBytes, y, yRowBytes, xColumnBytes, lines, width }) => {
      const streams = Math.min(STREAMS, FACTORS / rows);
      const [left, from] = scope.locals("i32", 2) as [I32Local, I32Local];
      const xRows = scope.locals("i32", rows);
      const yRows = scope.locals("i32", rows);
      const wLines = scope.locals("i32", streams);
      const factors = yRows.map(() => scope.locals("v128", streams));
      const walks = [
        { pointers: [w], step: lineBytes },
        { pointers: [x], step: xColumnBytes },
      ];
      return overStreams(scope, lines, streams, walks, (count, [wGap, xGap]) => {
        const inPass = wLines.slice(0, count);
        const operands = { scope, lanes, format, yRows, wLines: inPass, factors };
        const steps = [...new Set([count === streams ? SUMS / rows : 1, 1])];
        return [
          ...startLines(xRows, x, xRowBytes),
          ...factors.flatMap((row, i) => [
            from.set(xRows[i]!),
            ...row
              .slice(0, count)
              .flatMap((factor) => [factor.set(lanes.splat(from)), increase(from, xGap!)]),
          ]),
          ...startLines(yRows, y, yRowBytes),
          ...startLines(inPass, w, wGap!),
          left.set(width),
          ...steps.map((vectors) => {
            const isWhole = i32.geU(left, vectors * lanes.count);
            return when(isWhole, [repeat(isWhole, ...combineVectors(operands, left, vectors))]);
          }),
          until(left, i32.const(0), ...combineColumn(operands, left)),
        ];
      });
    },
  });
}

interface Combination {
  readonly scope: FunctionScope;
  readonly lanes: Lanes;
  readonly format: Format;
  readonly yRows: readonly I32Local[];
  readonly wLines: readonly I32Local[];
  /** By row of `x` and line of `w`. */
  readonly factors: readonly (readonly V128Local[])[];
}

/** Some vectors of columns. */
function combineVectors(
  { scope, lanes, format, yRows, wLines, factors }: Combination,
  left: I32Local,
  vectors: number,
): Statement[] {
  const w = scope.local("v128");
  const sums = yRows.map(() => scope.locals("v128", vectors));
  const columns = vectors * lanes.count;
  const indices = Array.from({ length: vectors }, (_, index) => index);
  const overSums = (body: (row: I32Local, sum: V128Local, offset: number) => Statement) =>
    yRows.flatMap((row, i) => sums[i]!.map((sum, index) => body(row, sum, 16 * index)));
  return [
    ...overSums((row, sum, offset) => sum.set(v128.load(row, offset))),
    ...wLines.flatMap((line, p) => {
      return indices.flatMap((index) => {
        const { before, value } = format.load(scope, line, index * lanes.count * format.bytes);
        return [
          ...before,
          w.set(value),
          ...sums.map((row, i) => {
            const sum = row[index]!;
            return sum.set(lanes.multiplyAdd(factors[i]![p]!, w, sum));
          }),
        ];
      });
    }),
    ...overSums((row, sum, offset) => v128.store(row, sum, offset)),
    ...yRows.map((row) => increase(row, columns * lanes.bytes)),
    ...wLines.map((line) => increase(line, columns * format.bytes)),
    increase(left, -columns),
  ];
}

/** One column. */
function combineColumn(
  { scope, lanes, format, yRows, wLines, factors }: Combination,
  left: I32Local,
): Statement[] {
  const w = scope.local("v128");
  const sums = scope.locals("v128", yRows.length);
  return [
    ...yRows.map((row, i) => sums[i]!.set(lanes.loadFirst(row))),
    ...wLines.flatMap((line, p) => {
      const { before, value } = format.loadFirst(scope, line);
      return [
        ...before,
        w.set(value),
        ...sums.map((sum, i) => sum.set(lanes.multiplyAdd(factors[i]![p]!, w, sum))),
      ];
    }),
    ...yRows.map((row, i) => lanes.storeFirst(row, sums[i]!)),
    ...yRows.map((row) => increase(row, lanes.bytes)),
    ...wLines.map((line) => increase(line, format.bytes)),
    increase(left, -1),
  ];
}
