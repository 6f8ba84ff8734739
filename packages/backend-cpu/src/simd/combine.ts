import { repeat, until, when } from "../wasm/control.ts";
import type { Statement, V128 } from "../wasm/expression.ts";
import { increase, type FunctionScope, type ModuleBuilder } from "../wasm/module.ts";
import { i32 } from "../wasm/scalar.ts";
import { v128 } from "../wasm/vector.ts";
import { commonParameters, startLines, type I32Local, type V128Local } from "./few-rows.ts";
import type { Format } from "./formats.ts";
import type { Lanes } from "./lanes.ts";

/** Lines of `w` in one pass times rows of `x`: factors in registers. */
const FACTORS = 8;

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
      const most = FACTORS / rows;
      const [left, from] = scope.locals("i32", 2) as [I32Local, I32Local];
      const xRows = scope.locals("i32", rows);
      const yRows = scope.locals("i32", rows);
      const wLines = scope.locals("i32", most);
      const factors = yRows.map(() => scope.locals("v128", most));
      const pass = (count: number): Statement[] => {
        const inPass = wLines.slice(0, count);
        const operands = { scope, lanes, format, yRows, wLines: inPass, factors };
        const isWhole = i32.geU(left, lanes.count);
        return [
          ...startLines(xRows, x, xRowBytes),
          ...factors.flatMap((row, i) => [
            from.set(xRows[i]!),
            ...row
              .slice(0, count)
              .flatMap((factor) => [factor.set(lanes.splat(from)), increase(from, xColumnBytes)]),
          ]),
          ...startLines(yRows, y, yRowBytes),
          ...startLines(inPass, w, lineBytes),
          left.set(width),
          when(isWhole, [repeat(isWhole, ...combineColumns(operands, left, true))]),
          until(left, i32.const(0), ...combineColumns(operands, left, false)),
          increase(x, i32.mul(xColumnBytes, count)),
          increase(w, i32.mul(lineBytes, count)),
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

interface Combination {
  readonly scope: FunctionScope;
  readonly lanes: Lanes;
  readonly format: Format;
  readonly yRows: readonly I32Local[];
  readonly wLines: readonly I32Local[];
  /** By row of `x` and line of `w`. */
  readonly factors: readonly (readonly V128Local[])[];
}

/** A vector of columns, or one column. */
function combineColumns(
  { scope, lanes, format, yRows, wLines, factors }: Combination,
  left: I32Local,
  whole: boolean,
): Statement[] {
  const w = scope.local("v128");
  const sums = scope.locals("v128", yRows.length);
  const columns = whole ? lanes.count : 1;
  const load = (row: I32Local): V128 => (whole ? v128.load(row) : lanes.loadFirst(row));
  return [
    ...yRows.map((row, i) => sums[i]!.set(load(row))),
    ...wLines.flatMap((line, p) => {
      const { before, value } = whole ? format.load(scope, line) : format.loadFirst(scope, line);
      return [
        ...before,
        w.set(value),
        ...sums.map((sum, i) => sum.set(lanes.multiplyAdd(factors[i]![p]!, w, sum))),
      ];
    }),
    ...yRows.map((row, i) => {
      return whole ? v128.store(row, sums[i]!) : lanes.storeFirst(row, sums[i]!);
    }),
    ...yRows.map((row) => increase(row, columns * lanes.bytes)),
    ...wLines.map((line) => increase(line, columns * format.bytes)),
    increase(left, -columns),
  ];
}
