import { repeat, until, when } from "../wasm/control.ts";
import type { I32, Statement, V128 } from "../wasm/expression.ts";
import { increase, type FunctionScope, type ModuleBuilder } from "../wasm/module.ts";
import { f32, i32 } from "../wasm/scalar.ts";
import { f32x4, v128 } from "../wasm/vector.ts";
import { commonParameters, startLines, type I32Local, type V128Local } from "./few-rows.ts";
import type { Format } from "./formats.ts";
import type { Lanes } from "./lanes.ts";

// Attention of a few queries reads keys and values once, where they lie. The heads that share them are the rows of a small
// product, computed in tiles whose sums stay in registers: 9 sums, which hide the latency of an addition, and 4 operands.

/** Rows of a tile. */
const ROWS = 3;
/** Keys of a tile of scores, and vectors of a tile of mixed values. */
const WIDTH = 3;

/** For all rows as many at a time as a tile has, then for those that are left; or one at a time, in less code. */
function overRows(
  rows: I32Local,
  most: number,
  body: (count: number) => readonly Statement[],
  advance: (count: number) => readonly Statement[],
): Statement[] {
  const step = (count: number): Statement[] => [
    ...body(count),
    ...advance(count),
    increase(rows, -count),
  ];
  if (most === 1) return [until(rows, i32.const(0), ...step(1))];
  const whole = i32.geU(rows, most);
  return [
    when(whole, [repeat(whole, ...step(most))]),
    when(i32.geU(rows, 2), step(2)),
    when(rows, step(1)),
  ];
}

/** Writes the sums of the lanes of three vectors. */
function storeSums(scope: FunctionScope, to: I32, [a, b, c]: readonly V128Local[]): Statement[] {
  const [ab, sums] = scope.locals("v128", 2) as [V128Local, V128Local];
  const halves = (x: V128Local, y: V128Local): V128 =>
    f32x4.add(v128.shuffle32(x, y, [0, 1, 4, 5]), v128.shuffle32(x, y, [2, 3, 6, 7]));
  return [
    ab.set(halves(a!, b!)),
    sums.set(halves(c!, c!)),
    sums.set(
      f32x4.add(v128.shuffle32(ab, sums, [0, 2, 4, 6]), v128.shuffle32(ab, sums, [1, 3, 5, 7])),
    ),
    v128.store64Lane(to, sums, 0),
    f32.store(to, f32x4.extractLane(sums, 2), 8),
  ];
}

/**
 * Adds a function to a module: `y[i, j] = x[i, :] · w[j, :]`.
 *
 * Parameters: rows `x`, lines `w` and rows `y` of f32, the elements of all adjacent; how many rows, lines, and
 * elements of a row and line.
 *
 * @param module - Where it goes.
 * @param name - Its name.
 * @param lanes - f32 lanes.
 */
export function defineHeadScores(module: ModuleBuilder, name: string, lanes: Lanes): void {
  module.define(name, {
    parameters: { ...commonParameters, rows: "i32", lines: "i32", depth: "i32" },
    body: (scope, { x, xRowBytes, w, lineBytes, y, yRowBytes, rows, lines, depth }) => {
      const [left, remaining, row, to] = scope.locals("i32", 4) as [
        I32Local,
        I32Local,
        I32Local,
        I32Local,
      ];
      const xRows = scope.locals("i32", ROWS);
      const wLines = scope.locals("i32", WIDTH);
      const sums = xRows.map(() => scope.locals("v128", WIDTH));
      const keys = (width: number): Statement[] => {
        const inTile = wLines.slice(0, width);
        const tile = (count: number): Statement[] => [
          ...sums.slice(0, count).flatMap((each) => each.map((sum) => sum.set(lanes.zero()))),
          ...startLines(xRows.slice(0, count), row, xRowBytes),
          ...startLines(inTile, w, lineBytes),
          left.set(depth),
          ...sumProducts({ scope, lanes, xRows: xRows.slice(0, count), inTile, sums }, left),
          ...sums.slice(0, count).flatMap((each, i) => {
            const at = i === 0 ? to : i32.add(to, i32.mul(yRowBytes, i));
            return width === 1
              ? [lanes.storeFirst(at, lanes.sum(each[0]!))]
              : storeSums(scope, at, each);
          }),
        ];
        return [
          row.set(x),
          to.set(y),
          remaining.set(rows),
          ...overRows(remaining, width === 1 ? 1 : ROWS, tile, (count) => [
            increase(row, i32.mul(xRowBytes, count)),
            increase(to, i32.mul(yRowBytes, count)),
          ]),
          increase(w, i32.mul(lineBytes, width)),
          increase(y, 4 * width),
          increase(lines, -width),
        ];
      };
      const enough = i32.geU(lines, WIDTH);
      return [
        when(enough, [repeat(enough, ...keys(WIDTH))]),
        until(lines, i32.const(0), ...keys(1)),
      ];
    },
  });
}

interface ScoreTile {
  readonly scope: FunctionScope;
  readonly lanes: Lanes;
  readonly xRows: readonly I32Local[];
  readonly inTile: readonly I32Local[];
  /** By row of `x` and line of `w`. */
  readonly sums: readonly (readonly V128Local[])[];
}

/** Adds the products of all elements to the sums: vectors, then what is left. */
function sumProducts(tile: ScoreTile, left: I32Local): Statement[] {
  const { scope, lanes, xRows, inTile, sums } = tile;
  const rows = scope.locals("v128", xRows.length);
  const line = scope.local("v128");
  const elements = (count: number, load: (at: I32) => V128): Statement[] => [
    ...rows.map((vector, i) => vector.set(load(xRows[i]!))),
    ...inTile.flatMap((at, j) => {
      return [
        line.set(load(at)),
        ...rows.map((vector, i) => {
          const sum = sums[i]![j]!;
          return sum.set(lanes.multiplyAdd(vector, line, sum));
        }),
      ];
    }),
    ...xRows.map((row) => increase(row, 4 * count)),
    ...inTile.map((at) => increase(at, 4 * count)),
    increase(left, -count),
  ];
  const enough = i32.geU(left, lanes.count);
  return [
    when(enough, [repeat(enough, ...elements(lanes.count, (at) => v128.load(at)))]),
    until(left, i32.const(0), ...elements(1, (at) => lanes.loadFirst(at))),
  ];
}

/**
 * Adds a function to a module: `y[i, :] += Σ x[i, j] w[j, :]`.
 *
 * Parameters: rows `x`, lines `w` and rows `y` of f32, the elements of all adjacent; how many rows, lines, and
 * elements of a line.
 *
 * @param module - Where it goes.
 * @param name - Its name.
 * @param lanes - f32 lanes.
 */
export function defineHeadMix(module: ModuleBuilder, name: string, lanes: Lanes): void {
  module.define(name, {
    parameters: { ...commonParameters, rows: "i32", lines: "i32", width: "i32" },
    body: (scope, { x, xRowBytes, w, lineBytes, y, yRowBytes, rows, lines, width }) => {
      const [left, remaining, line, row, to] = scope.locals("i32", 5) as [
        I32Local,
        I32Local,
        I32Local,
        I32Local,
        I32Local,
      ];
      const xRows = scope.locals("i32", ROWS);
      const sums = xRows.map(() => scope.locals("v128", WIDTH));
      const vectors = scope.locals("v128", WIDTH);
      const factor = scope.local("v128");
      /** Columns that are worked on together: three vectors, one, or a single element. */
      const columns = (count: number, single = false): Statement[] => {
        const used = vectors.slice(0, count);
        const at = (i: number): I32 => (i === 0 ? to : i32.add(to, i32.mul(yRowBytes, i)));
        const tile = (height: number): Statement[] => {
          const tall = sums.slice(0, height);
          return [
            ...tall.flatMap((each, i) =>
              used.map((_, v) =>
                each[v]!.set(single ? lanes.loadFirst(at(i)) : v128.load(at(i), 16 * v)),
              ),
            ),
            ...startLines(xRows.slice(0, height), row, xRowBytes),
            line.set(w),
            left.set(lines),
            repeat(
              left,
              ...used.map((vector, v) =>
                vector.set(single ? lanes.loadFirst(line) : v128.load(line, 16 * v)),
              ),
              ...tall.flatMap((each, i) => [
                factor.set(lanes.splat(xRows[i]!)),
                ...used.map((vector, v) =>
                  each[v]!.set(lanes.multiplyAdd(factor, vector, each[v]!)),
                ),
                increase(xRows[i]!, 4),
              ]),
              increase(line, lineBytes),
              increase(left, -1),
            ),
            ...tall.flatMap((each, i) =>
              used.map((_, v) =>
                single ? lanes.storeFirst(at(i), each[v]!) : v128.store(at(i), each[v]!, 16 * v),
              ),
            ),
          ];
        };
        const elements = single ? 1 : count * lanes.count;
        return [
          row.set(x),
          to.set(y),
          remaining.set(rows),
          ...overRows(remaining, single ? 1 : ROWS, tile, (height) => [
            increase(row, i32.mul(xRowBytes, height)),
            increase(to, i32.mul(yRowBytes, height)),
          ]),
          increase(w, 4 * elements),
          increase(y, 4 * elements),
          increase(width, -elements),
        ];
      };
      const many = i32.geU(width, WIDTH * lanes.count);
      const some = i32.geU(width, lanes.count);
      return [
        when(many, [repeat(many, ...columns(WIDTH))]),
        when(some, [repeat(some, ...columns(1))]),
        until(width, i32.const(0), ...columns(1, true)),
      ];
    },
  });
}

/** Vectors that are widened in one round. */
const VECTORS = 4;

/**
 * Adds the function `run` to a module: widens lines of adjacent elements to f32, one line after the other.
 *
 * Parameters: the first line, the bytes from one to the next, where they go, how many lines, and elements of each.
 *
 * @param module - Where it goes.
 * @param lanes - f32 lanes.
 * @param format - What is stored.
 */
export function defineWidenLines(module: ModuleBuilder, lanes: Lanes, format: Format): void {
  module.define("run", {
    parameters: { from: "i32", lineBytes: "i32", to: "i32", lines: "i32", depth: "i32" },
    body: (scope, { from, lineBytes, to, lines, depth }) => {
      const [at, left] = scope.locals("i32", 2) as [I32Local, I32Local];
      const vectors = Array.from({ length: VECTORS }, (_, v) => {
        const loaded = format.load(scope, at, v * lanes.count * format.bytes);
        return [...loaded.before, v128.store(to, loaded.value, 16 * v)];
      });
      const first = format.loadFirst(scope, at);
      const single = [...first.before, lanes.storeFirst(to, first.value)];
      const advance = (elements: number): Statement[] => [
        increase(at, format.bytes * elements),
        increase(to, 4 * elements),
        increase(left, -elements),
      ];
      const many = VECTORS * lanes.count;
      const enough = i32.geU(left, many);
      return [
        until(
          lines,
          i32.const(0),
          at.set(from),
          left.set(depth),
          when(enough, [repeat(enough, ...vectors.flat(), ...advance(many))]),
          until(left, i32.const(0), ...single, ...advance(1)),
          increase(from, lineBytes),
          increase(lines, -1),
        ),
      ];
    },
  });
}
