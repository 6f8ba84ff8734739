import type { Memory } from "../memory.ts";
import type { Kernels } from "../simd/kernels.ts";
import { exp } from "./functions.ts";

/** What is done with rows of adjacent f32; positions are indices into f32. */
export interface RowFunctions {
  /** The largest element. One that is not a number may be left out: its exponential shows it. */
  largest(at: number, count: number): number;
  /** Writes `exp(x - max)` of each element, and returns their sum. */
  exponentials(from: number, to: number, count: number, max: number): number;
  /** Multiplies each element. */
  scale(at: number, count: number, factor: number): void;
  /** The sum of the squares. */
  sumOfSquares(at: number, count: number): number;
  /** Writes `x * factor * (weight + offset)`. */
  weigh(row: WeighedRow, factor: number, offset: number): void;
}

/** A row that is multiplied by weights, and where the result goes. */
interface WeighedRow {
  /** The row. */
  readonly from: number;
  /** The weights. */
  readonly weight: number;
  /** The result. */
  readonly to: number;
  /** Elements of each. */
  readonly count: number;
}

/**
 * The functions for a memory: by its WebAssembly kernels where it has any.
 *
 * @param memory - Where rows lie. It does not grow while the functions are used.
 */
export function rowFunctions(memory: Memory): RowFunctions {
  return memory.simd ? simdRows(memory.simd) : plainRows(memory.f32);
}

function simdRows(kernels: Kernels): RowFunctions {
  return {
    largest: (at, count) => kernels.get("maximum")(4 * at, count)!,
    exponentials: (from, to, count, max) => {
      return kernels.get("exponentials")(4 * from, 4 * to, count, max)!;
    },
    scale: (at, count, factor) => {
      kernels.get("scale")(4 * at, count, factor);
    },
    sumOfSquares: (at, count) => kernels.get("sumOfSquares")(4 * at, count)!,
    weigh: ({ from, weight, to, count }, factor, offset) => {
      kernels.get("weigh")(4 * from, 4 * weight, 4 * to, count, factor, offset);
    },
  };
}

function plainRows(f: Float32Array): RowFunctions {
  return {
    largest(at, count) {
      let max = Number.NEGATIVE_INFINITY;
      for (let i = at; i < at + count; i++) max = Math.max(max, f[i]!);
      return max;
    },
    exponentials(from, to, count, max) {
      let sum = 0;
      for (let i = 0; i < count; i++) {
        const e = exp(f[from + i]! - max);
        f[to + i] = e;
        sum += e;
      }
      return sum;
    },
    scale(at, count, factor) {
      for (let i = at; i < at + count; i++) f[i]! *= factor;
    },
    sumOfSquares(at, count) {
      let sum = 0;
      for (let i = at; i < at + count; i++) sum += f[i]! * f[i]!;
      return sum;
    },
    weigh({ from, weight, to, count }, factor, offset) {
      for (let i = 0; i < count; i++) {
        f[to + i] = f[from + i]! * factor * (f[weight + i]! + offset);
      }
    },
  };
}
