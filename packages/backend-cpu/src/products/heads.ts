import { isBlock, type DType } from "@transmla/core";

import { exp } from "../kernels/functions.ts";
import { rowFunctions } from "../kernels/rows.ts";
import type { Memory } from "../memory.ts";
import type { Call, Kernels } from "../simd/kernels.ts";
import {
  transposed,
  widenedRows,
  widenedSize,
  type Matrix,
  type StoredMatrix,
  type Unplaced,
} from "./matrix.ts";
import { takeProduct } from "./product.ts";
import { takeOwnProduct } from "./simd.ts";

/** Rows of a product beyond which packing its right matrix pays. */
export const MOST_HEADS = 16;

/** Beyond any position, with room for more tokens. */
const UNBOUNDED = 2 ** 30;

/** The scores of rows of queries with a block of keys, and what the rows have gathered. */
interface Attended {
  /** Scores, the rows of one token after those of the token before it. */
  readonly scores: Matrix;
  /** How many rows belong to one token. */
  readonly perToken: number;
  /**
   * The first score that the rows of the first token see; each token sees one further. It may lie outside of the row, and be
   * infinite.
   */
  readonly begin: number;
  /** The one after the last that they see. */
  readonly end: number;
  /** The largest score so far of each row: an index into f32. */
  readonly maxima: number;
  /** The sum of the exponentials so far of each row. */
  readonly sums: number;
  /** The sums of values of each row, weighted by the exponentials. */
  readonly mixed: Matrix;
  /** Whether these are the first scores: then nothing has been gathered. */
  readonly first: boolean;
}

/** What attention does with a block of keys and values, in the scratch of one thread. */
export interface HeadSteps {
  /** `scores = queries · keysᵀ` */
  score(queries: Matrix, keys: StoredMatrix, scores: Matrix): void;
  /** Turns scores into exponentials under the running maximum, and into 0 where a row may not look. */
  attend(attended: Attended): void;
  /** `mixed = scores · values`, or what it is already is added to. */
  mix(scores: Matrix, values: StoredMatrix, mixed: Matrix, accumulate: boolean): void;
  /** Divides each row by its number, an index into f32 that advances by `step`. */
  divide(from: Matrix, to: Matrix, divisors: number, step: number): void;
}

/** The steps in the scratch of a thread, which calls kernels by `call`, where there are any. */
export type TakenSteps = (call: Call, thread: number) => HeadSteps;

/** The largest matrices of the steps. */
export interface StepSizes {
  /** Rows of queries that are worked on together. */
  readonly rows: number;
  /** A block of keys. */
  readonly keys: Unplaced;
  /** A block of values. */
  readonly values: Unplaced;
}

const f32Of = (x: Matrix): StoredMatrix => ({ ...x, dtype: "f32" });

/** Bytes of addresses and steps. */
const bytes = (...elements: readonly number[]): number[] => elements.map((x) => 4 * x);

/**
 * Takes scratch for the steps by WebAssembly kernels for many rows, whose products are made by packed blocks.
 *
 * @param memory - Where everything lies.
 * @param kernels - The kernels over it.
 * @param sizes - The largest matrices.
 */
export function takeManyRowSteps(memory: Memory, kernels: Kernels, sizes: StepSizes): TakenSteps {
  const { rows, keys, values } = sizes;
  // Blocks are widened first; 16-bit floats are as they are packed.
  const readers = takeReaders(memory, kernels, sizes, isBlock);
  const product = (columns: number, right: Unplaced) => {
    const dtype = isBlock(right.dtype) ? "f32" : right.dtype;
    return takeOwnProduct(memory, kernels, { dtype: "f32", rows, columns }, { ...right, dtype });
  };
  const scoreIn = product(keys.columns, { ...keys, rows: keys.columns, columns: keys.rows });
  const mixIn = product(keys.rows, values);
  return (call, thread) => {
    const [score, mix, read] = [scoreIn(call, thread), mixIn(call, thread), readers(call, thread)];
    return {
      score: (queries, keys, scores) => {
        score(f32Of(queries), transposed(read(keys)), scores, false);
      },
      mix: (scores, values, mixed, accumulate) => {
        mix(f32Of(scores), read(values), mixed, accumulate);
      },
      ...rowSteps(call),
    };
  };
}

/**
 * Takes scratch for the steps by WebAssembly kernels for few rows: keys and values are read once, where they lie. `mix` adds
 * to what lies there.
 *
 * @param memory - Where everything lies.
 * @param kernels - The kernels over it.
 * @param sizes - The largest matrices.
 */
export function takeFewRowSteps(memory: Memory, kernels: Kernels, sizes: StepSizes): TakenSteps {
  const readers = takeReaders(memory, kernels, sizes, (dtype) => dtype !== "f32");
  return (call, thread) => {
    const read = readers(call, thread);
    const product = (kernel: "scores" | "mix", x: Matrix, lines: StoredMatrix, y: Matrix): void => {
      const w = read(lines);
      const places = bytes(x.at, x.rowStep, w.at, w.rowStep, y.at, y.rowStep);
      call(kernel, ...places, x.rows, w.rows, w.columns);
    };
    return {
      score: (queries, keys, scores) => product("scores", queries, keys, scores),
      mix: (scores, values, mixed) => product("mix", scores, values, mixed),
      ...rowSteps(call),
    };
  };
}

function rowSteps(call: Call): Pick<HeadSteps, "attend" | "divide"> {
  return {
    attend: ({ scores, perToken, begin, end, maxima, sums, mixed, first }) => {
      call(
        "attend",
        ...bytes(scores.at, scores.rowStep),
        scores.rows,
        scores.columns,
        perToken,
        Math.max(begin, -UNBOUNDED),
        Math.min(end, UNBOUNDED),
        ...bytes(maxima, sums, mixed.at, mixed.rowStep),
        mixed.columns,
        Number(first),
      );
    },
    divide: (from, to, divisors, step) => {
      const places = bytes(from.at, from.rowStep, to.at, to.rowStep, divisors, step);
      call("divide", ...places, from.rows, from.columns);
    },
  };
}

/** Gives rows as f32: where they lie, or widened into scratch. */
type Reader = (x: StoredMatrix) => StoredMatrix;

/**
 * Takes scratch for blocks of keys and values that are widened in turn, where they are. Values that are the first elements
 * of the keys before them are not widened again.
 */
function takeReaders(
  memory: Memory,
  { threads }: Kernels,
  { keys, values }: StepSizes,
  isWidened: (dtype: DType) => boolean,
): (call: Call, thread: number) => Reader {
  const sizes = [keys, values].map((x) => (isWidened(x.dtype) ? widenedSize(x) : 0));
  const size = Math.max(...sizes);
  const scratch = memory.scratch(threads * size);
  return (call, thread) => {
    let held: { readonly from: StoredMatrix; readonly wide: Matrix } | undefined;
    return (x) => {
      if (!isWidened(x.dtype)) return x;
      if (!held || !startsWith(held.from, x)) {
        held = { from: x, wide: widenedRows(memory, x, scratch + thread * size, call) };
      }
      return { ...held.wide, columns: x.columns, dtype: "f32" };
    };
  };
}

/** Whether each row of a matrix begins with that of another. */
function startsWith(x: StoredMatrix, other: StoredMatrix): boolean {
  return (
    x.base === other.base &&
    x.at === other.at &&
    x.rows === other.rows &&
    x.rowStep === other.rowStep &&
    x.columns >= other.columns
  );
}

/**
 * Takes scratch for the steps in plain TypeScript.
 *
 * @param memory - Where everything lies.
 * @param sizes - The largest matrices.
 */
export function takePlainSteps(memory: Memory, { rows, keys, values }: StepSizes): TakenSteps {
  const floats = (columns: number): Unplaced => ({ dtype: "f32", rows, columns });
  const turned = { ...keys, rows: keys.columns, columns: keys.rows };
  const score = takeProduct(memory, floats(keys.columns), turned);
  const mix = takeProduct(memory, floats(keys.rows), values);
  const functions = rowFunctions(memory);
  const { f32 } = memory;
  return () => ({
    score: (queries, keys, scores) => score(f32Of(queries), transposed(keys), scores, false),
    mix: (scores, values, mixed, accumulate) => mix(f32Of(scores), values, mixed, accumulate),
    attend: ({ scores, perToken, begin, end, maxima, sums, mixed, first }) => {
      for (let row = 0; row < scores.rows; row++) {
        const token = Math.floor(row / perToken);
        const to = Math.min(Math.max(end + token, 0), scores.columns);
        const from = Math.min(Math.max(begin + token, 0), to);
        const at = scores.at + row * scores.rowStep;
        const before = first ? Number.NEGATIVE_INFINITY : f32[maxima + row]!;
        const sum = first ? 0 : f32[sums + row]!;
        const max = Math.max(before, functions.largest(at + from, to - from));
        const seesNothing = max === Number.NEGATIVE_INFINITY;
        f32.fill(0, at, at + (seesNothing ? scores.columns : from));
        f32.fill(0, at + to, at + scores.columns);
        const factor = seesNothing ? 1 : exp(before - max);
        const added = seesNothing
          ? 0
          : functions.exponentials(at + from, at + from, to - from, max);
        f32[maxima + row] = max;
        f32[sums + row] = sum * factor + added;
        if (first || factor === 1) continue;
        functions.scale(mixed.at + row * mixed.rowStep, mixed.columns, factor);
      }
    },
    divide: (from, to, divisors, step) => {
      for (let row = 0; row < from.rows; row++) {
        const factor = 1 / f32[divisors + row * step]!;
        const [source, target] = [from.at + row * from.rowStep, to.at + row * to.rowStep];
        for (let i = 0; i < from.columns; i++) f32[target + i] = f32[source + i]! * factor;
      }
    },
  });
}
