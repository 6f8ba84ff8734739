// What every primitive means, in plain loops over f64: no views, no strides, no kernels.

import type { BinaryFunction, ReduceFunction, UnaryFunction } from "../backend.ts";
import type { DType } from "../dtype.ts";
import { sizeOf, type Shape } from "../shape.ts";
import { indices, type Elements } from "./samples.ts";

/** The elements that an operation should give, and what their rounding errors are measured by. */
export interface Expected extends Elements {
  /** How many terms go into an element. */
  readonly terms: number;
  /** For each element, the sum of the magnitudes of its terms. */
  readonly scale: ArrayLike<number>;
}

/** The elements of a product. */
export interface ExpectedProduct extends Expected {
  /** The largest magnitude in the row of each element times the sum of the magnitudes in its column. */
  readonly spread: ArrayLike<number>;
}

const unaryFunctions: Readonly<Record<UnaryFunction, (x: number) => number>> = {
  identity: (x) => x,
  exp: Math.exp,
  log: Math.log,
  rsqrt: (x) => 1 / Math.sqrt(x),
  tanh: Math.tanh,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  sin: Math.sin,
  cos: Math.cos,
  abs: Math.abs,
};

/** What the rounding errors inside a function are relative to, where that is not its value. */
const innerMagnitudes: Partial<Record<UnaryFunction, (x: number) => number>> = {
  log: () => 1,
  tanh: () => 1,
  sin: () => 1,
  cos: () => 1,
  gelu: Math.abs,
};

/**
 * One of the functions of `unary`.
 *
 * @param fn - Which.
 * @param x - Its argument.
 */
export function unaryFunction(fn: UnaryFunction, x: number): number {
  return unaryFunctions[fn](x);
}

/**
 * How far the f32 arithmetic inside a function may take it from its value, in units of 2^-24.
 *
 * @param fn - Which.
 * @param x - Its argument.
 * @param magnitude - The sum of the magnitudes that the argument was added up from.
 */
export function unaryScale(fn: UnaryFunction, x: number, magnitude: number): number {
  const step = magnitude * 2 ** -24;
  const f = unaryFunctions[fn];
  const carried = Math.abs(f(x + step) - f(Math.max(x - step, fn === "log" ? x / 2 : -Infinity)));
  return carried * 2 ** 24 + (innerMagnitudes[fn]?.(x) ?? 0);
}

/**
 * `fn(scale * x + shift)`.
 *
 * @param fn - The function.
 * @param x - Any shape.
 * @param scale - A factor applied first.
 * @param shift - A constant added next.
 */
export function unary(fn: UnaryFunction, x: Elements, scale: number, shift: number): Expected {
  const values = Float64Array.from(x.values, (a) => unaryFunction(fn, scale * a + shift));
  const scales = Float64Array.from(x.values, (a) => {
    return unaryScale(fn, scale * a + shift, Math.abs(scale * a) + Math.abs(shift));
  });
  return { shape: x.shape, values, terms: 4, scale: scales };
}

/**
 * `start + step * i` along the last axis.
 *
 * @param shape - The shape of the result.
 * @param start - The first value of each row.
 * @param step - The difference between neighbours.
 */
export function fill(shape: Shape, start: number, step: number): Expected {
  const values = indices(shape).map((index) => start + step * (index.at(-1) ?? 0));
  const scale = indices(shape).map((index) => {
    return Math.abs(start) + Math.abs(step) * (index.at(-1) ?? 0);
  });
  return { shape, values, terms: 2, scale };
}

/**
 * Repeats axes of size 1 and adds leading axes.
 *
 * @param x - Elements.
 * @param shape - The shape to become.
 */
export function expand(x: Elements, shape: Shape): Elements {
  const values = indices(shape).map((index) => {
    const own = index.slice(shape.length - x.shape.length);
    return x.values[
      own.reduce((at, i, axis) => at * x.shape[axis]! + (x.shape[axis] === 1 ? 0 : i), 0)
    ]!;
  });
  return { shape, values };
}

const integerFunctions: Readonly<Record<BinaryFunction, (a: bigint, b: bigint) => bigint>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  max: (a, b) => (a > b ? a : b),
  min: (a, b) => (a < b ? a : b),
  equal: (a, b) => BigInt(a === b),
  less: (a, b) => BigInt(a < b),
};

const floatFunctions: Readonly<Record<BinaryFunction, (a: number, b: number) => number>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  max: Math.max,
  min: Math.min,
  equal: (a, b) => Number(a === b),
  less: (a, b) => Number(a < b),
};

/** Wraps an integer around to 32 bits. */
function wrap(x: bigint, dtype: DType): number {
  return Number(dtype === "i32" ? BigInt.asIntN(32, x) : BigInt.asUintN(32, x));
}

const isInteger = (dtype: DType): boolean => dtype === "i32" || dtype === "u32";

/**
 * `fn(a, b)` of operands of one shape. Integers wrap around and divide towards zero.
 *
 * @param fn - The function.
 * @param a - The left operand.
 * @param b - The right operand.
 * @param dtype - What both hold.
 */
export function binary(fn: BinaryFunction, a: Elements, b: Elements, dtype: DType): Elements {
  const values = Array.from(a.values, (x, i) => {
    const y = b.values[i]!;
    return isInteger(dtype)
      ? wrap(integerFunctions[fn](BigInt(x), BigInt(y)), dtype)
      : floatFunctions[fn](x, y);
  });
  return { shape: a.shape, values };
}

/** The rows along the last axis. */
export function rowsOf(x: Elements): number[][] {
  const width = x.shape.at(-1)!;
  const count = sizeOf(x.shape.slice(0, -1));
  return Array.from({ length: count }, (_, row) => {
    return Array.from({ length: width }, (_, i) => x.values[row * width + i]!);
  });
}

/**
 * The sum or the maximum over the last axis, which becomes 1 wide. Integers wrap around.
 *
 * @param fn - Which.
 * @param x - At least one axis.
 * @param dtype - What it holds.
 */
export function reduce(fn: ReduceFunction, x: Elements, dtype: DType): Expected {
  const rows = rowsOf(x);
  const values = rows.map((row) => {
    if (fn === "max") return Math.max(...row);
    if (!isInteger(dtype)) return row.reduce((total, value) => total + value, 0);
    const total = row.reduce((total, value) => total + BigInt(value), 0n);
    return wrap(total, dtype);
  });
  const scale = rows.map((row) => row.reduce((total, value) => total + Math.abs(value), 0));
  return { shape: [...x.shape.slice(0, -1), 1], values, terms: x.shape.at(-1)!, scale };
}

/**
 * The matrix product over the last two axes; the others agree.
 *
 * @param a - `[..., m, k]`.
 * @param b - `[..., k, n]`.
 */
export function matmul(a: Elements, b: Elements): ExpectedProduct {
  const [m, k] = a.shape.slice(-2) as [number, number];
  const n = b.shape.at(-1)!;
  const batch = a.shape.slice(0, -2);
  const values: number[] = [];
  const scale: number[] = [];
  const spread: number[] = [];
  for (let matrix = 0; matrix < sizeOf(batch); matrix++) {
    for (let row = 0; row < m; row++) {
      for (let column = 0; column < n; column++) {
        let sum = 0;
        let magnitude = 0;
        let [largest, weight] = [0, 0];
        for (let i = 0; i < k; i++) {
          const x = a.values[(matrix * m + row) * k + i]!;
          const w = b.values[(matrix * k + i) * n + column]!;
          sum += x * w;
          magnitude += Math.abs(x * w);
          largest = Math.max(largest, Math.abs(x));
          weight += Math.abs(w);
        }
        values.push(sum);
        scale.push(magnitude);
        spread.push(largest * weight);
      }
    }
  }
  return { shape: [...batch, m, n], values, terms: k, scale, spread };
}

/**
 * Rows of a table by index; zeros for indices outside.
 *
 * @param table - `[..., n, w]`.
 * @param rows - `[..., k]`, with the same leading axes.
 */
export function gather(table: Elements, rows: Elements): Elements {
  const [n, w] = table.shape.slice(-2) as [number, number];
  const k = rows.shape.at(-1)!;
  const shape = [...rows.shape, w];
  const values = indices([sizeOf(rows.shape), w]).map(([position, column]) => {
    const row = rows.values[position!]!;
    const matrix = Math.floor(position! / k);
    return row >= 0 && row < n ? table.values[(matrix * n + row) * w + column!]! : 0;
  });
  return { shape, values };
}

/**
 * The indices of the k largest elements of the last axis, largest first, the lower index first among equals.
 *
 * @param x - `[..., n]`.
 * @param k - At most n.
 */
export function topK(x: Elements, k: number): Elements {
  const values = rowsOf(x).flatMap((row) => {
    const order = row.map((_, i) => i).toSorted((i, j) => row[j]! - row[i]! || i - j);
    return order.slice(0, k);
  });
  return { shape: [...x.shape.slice(0, -1), k], values };
}
