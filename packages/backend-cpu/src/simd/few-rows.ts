import type { Statement } from "../wasm/expression.ts";
import type { Local } from "../wasm/module.ts";
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
