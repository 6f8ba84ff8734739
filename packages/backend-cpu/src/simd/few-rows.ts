import { until } from "../wasm/control.ts";
import type { Statement } from "../wasm/expression.ts";
import { increase, type FunctionScope, type Local } from "../wasm/module.ts";
import { i32 } from "../wasm/scalar.ts";

// Products of 1, 2 or 4 rows `x` with a matrix that is read once, where it lies.

/** For how many rows there are kernels. */
export type FewRows = 1 | 2 | 4;

/**
 * How many rows the next kernel takes.
 *
 * @param rows - For as many as remain.
 */
export function fewRows(rows: number): FewRows {
  if (rows >= 4) return 4;
  return rows >= 2 ? 2 : 1;
}

/** A variable that holds an address or a count. */
export type I32Local = Local<"i32">;
/** A variable that holds a vector. */
export type V128Local = Local<"v128">;

/** The parameters that these kernels share: rows, lines and results, each with the bytes from one to the next. */
export const commonParameters = {
  x: "i32",
  xRowBytes: "i32",
  w: "i32",
  lineBytes: "i32",
  y: "i32",
  yRowBytes: "i32",
} as const;

/**
 * Sets pointers to lines that follow one another.
 *
 * @param pointers - The pointers.
 * @param first - Where the first line starts.
 * @param step - Bytes from one line to the next.
 */
export function startLines(
  pointers: readonly I32Local[],
  first: I32Local,
  step: I32Local,
): Statement[] {
  return pointers.map((pointer, i) => {
    return pointer.set(i === 0 ? first : i32.add(pointers[i - 1]!, step));
  });
}

/** Pointers that advance together from one line to the next. */
export interface Walk {
  readonly pointers: readonly I32Local[];
  /** By how many bytes. */
  readonly step: I32Local;
}

/**
 * Statements that visit lines, a few in each pass. They lie far apart, such a part of all lines from one to the next, and the
 * next pass visits those that follow: memory delivers a few long streams faster than one, and than several that lie close
 * together and soon end.
 *
 * @param scope - The function.
 * @param lines - How many lines.
 * @param streams - Lines of a pass: a power of two. Those that are left are visited one by one.
 * @param walks - What advances with the lines.
 * @param pass - Visits the line at the pointers and those behind it, `count` in all; `gaps` are the bytes from one to the
 *   next, for each walk.
 */
export function overStreams(
  scope: FunctionScope,
  lines: I32Local,
  streams: number,
  walks: readonly Walk[],
  pass: (count: number, gaps: readonly I32Local[]) => readonly Statement[],
): Statement[] {
  const left = scope.local("i32");
  const gaps = scope.locals("i32", walks.length);
  const visit = (count: number): Statement =>
    until(
      left,
      i32.const(0),
      ...pass(count, gaps),
      ...walks.flatMap(({ pointers, step }) => pointers.map((at) => increase(at, step))),
      increase(left, -1),
    );
  return [
    left.set(i32.shrU(lines, Math.log2(streams))),
    ...gaps.map((gap, i) => gap.set(i32.mul(walks[i]!.step, left))),
    visit(streams),
    ...walks.flatMap(({ pointers }, i) => {
      return pointers.map((at) => increase(at, i32.mul(gaps[i]!, streams - 1)));
    }),
    left.set(i32.and(lines, streams - 1)),
    visit(1),
  ];
}
