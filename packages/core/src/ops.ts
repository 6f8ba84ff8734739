import { apply } from "./apply.ts";
import type { Backend, BinaryFunction, UnaryFunction } from "./backend.ts";
import { isAligned, isBlock } from "./blocks.ts";
import type { DType } from "./dtype.ts";
import { ArgumentError, fail, ShapeError } from "./errors.ts";
import { scope } from "./scope.ts";
import { broadcast, type Shape } from "./shape.ts";
import { empty, type Tensor } from "./tensor.ts";

const floats: ReadonlySet<DType> = new Set(["f32", "f16", "bf16"]);

/** Throws unless every operand holds floats. */
export function requireFloats(operation: string, ...operands: readonly Tensor[]): void {
  requireFloatsAndBlocks(operation, operands, []);
}

/** Throws unless the first operands hold floats, and the others floats or blocks. */
export function requireFloatsAndBlocks(
  operation: string,
  first: readonly Tensor[],
  others: readonly Tensor[],
): void {
  const wrong =
    first.find(({ dtype }) => !floats.has(dtype)) ??
    others.find(({ dtype }) => !floats.has(dtype) && !isBlock(dtype));
  if (wrong) failDType(operation, wrong, ...first, ...others);
}

/** Throws where an operand holds blocks, which are for weights and caches. */
function refuseBlocks(operation: string, ...operands: readonly Tensor[]): void {
  const wrong = operands.find(({ dtype }) => isBlock(dtype));
  if (wrong) failDType(operation, wrong, ...operands);
}

function failDType(operation: string, wrong: Tensor, ...operands: readonly Tensor[]): never {
  return fail(
    ShapeError,
    operation,
    `${wrong.dtype} must be cast to a float dtype first`,
    ...operands,
  );
}

function binary(fn: BinaryFunction): (a: Tensor, b: Tensor) => Tensor {
  return (a, b) => {
    refuseBlocks(fn, a, b);
    if (a.dtype !== b.dtype) fail(ShapeError, fn, "dtypes differ; cast one operand", a, b);
    const shape =
      broadcast(a.shape, b.shape) ?? fail(ShapeError, fn, "shapes do not broadcast", a, b);
    using left = a.expand(shape);
    using right = b.expand(shape);
    return apply("binary", [left, right], { fn }, { shape, dtype: a.dtype });
  };
}

/** `a + b`, broadcast; operands of one dtype. */
export const add: (a: Tensor, b: Tensor) => Tensor = binary("add");
/** `a - b`, broadcast; operands of one dtype. */
export const sub: (a: Tensor, b: Tensor) => Tensor = binary("sub");
/** `a * b`, broadcast; operands of one dtype. */
export const mul: (a: Tensor, b: Tensor) => Tensor = binary("mul");
/** `a / b`, broadcast; operands of one dtype. Integers divide towards zero. */
export const div: (a: Tensor, b: Tensor) => Tensor = binary("div");
/** The larger of two elements, broadcast. */
export const maximum: (a: Tensor, b: Tensor) => Tensor = binary("max");
/** The smaller of two elements, broadcast. */
export const minimum: (a: Tensor, b: Tensor) => Tensor = binary("min");
/** 1 where elements are equal, else 0, in the dtype of the operands. */
export const equal: (a: Tensor, b: Tensor) => Tensor = binary("equal");
/** 1 where `a < b`, else 0, in the dtype of the operands. */
export const less: (a: Tensor, b: Tensor) => Tensor = binary("less");

/**
 * `fn(scale * a + shift)` for every element.
 *
 * @param fn - The function.
 * @param a - Floats.
 * @param scale - A factor applied first.
 * @param shift - A constant added next.
 *
 * @example
 * ```ts
 * import { cpuBackend } from "@transmla/backend-cpu";
 * import { tensor, unary } from "@transmla/core";
 * const x = tensor(await cpuBackend(), [0, 3, 8], [3]);
 * console.log(Array.from(await unary("rsqrt", x, 1, 1).read())); // => [1, 0.5, 0.3333333432674408]
 * ```
 */
export function unary(fn: UnaryFunction, a: Tensor, scale = 1, shift = 0): Tensor {
  requireFloats(fn, a);
  return apply("unary", [a], { fn, scale, shift }, { shape: a.shape, dtype: a.dtype });
}

/**
 * `scale * a + shift`.
 *
 * @param a - Floats.
 * @param scale - The factor.
 * @param shift - The constant.
 */
export function affine(a: Tensor, scale: number, shift = 0): Tensor {
  return unary("identity", a, scale, shift);
}

const keepLast = (shape: Shape): number[] => [...shape.slice(0, -1), 1];

function reduce(fn: "sum" | "max", a: Tensor): Tensor {
  refuseBlocks(fn, a);
  if (a.rank === 0) fail(ShapeError, fn, "needs an axis", a);
  return apply("reduce", [a], { fn }, { shape: keepLast(a.shape), dtype: a.dtype });
}

/**
 * The sum over the last axis, which becomes 1 wide. Zero for an empty axis.
 *
 * @param a - `[..., n]`.
 */
export function sum(a: Tensor): Tensor {
  return reduce("sum", a);
}

/**
 * The largest element of the last axis, which becomes 1 wide.
 *
 * @param a - `[..., n]` with n ≥ 1.
 */
export function max(a: Tensor): Tensor {
  if (a.shape.at(-1) === 0) fail(ShapeError, "max", "the last axis is empty", a);
  return reduce("max", a);
}

/**
 * A tensor with one value everywhere, or a ramp along the last axis.
 *
 * @param backend - Where it lives.
 * @param shape - Its sizes.
 * @param start - The first value of each row.
 * @param step - Added from one element of a row to the next.
 * @param dtype - Its element type.
 *
 * @example
 * ```ts
 * import { cpuBackend } from "@transmla/backend-cpu";
 * import { full } from "@transmla/core";
 * console.log(Array.from(await full(await cpuBackend(), [2, 3], 1, 0.5).read())); // => [1, 1.5, 2, 1, 1.5, 2]
 * ```
 */
export function full(
  backend: Backend,
  shape: Shape,
  start: number,
  step = 0,
  dtype: DType = "f32",
): Tensor {
  if (isBlock(dtype)) fail(ShapeError, "full", `${dtype} is not filled; cast a tensor of f32`);
  return apply("fill", [], { start, step }, { shape, dtype, backend });
}

/**
 * Converts to another dtype, with one rounding to nearest even; floats become integers towards zero. Blocks that keep their
 * dtype stay what they are, unless the view cuts through them.
 *
 * @param a - Any tensor; for `q8` and `q4` its last axis is a multiple of 32.
 * @param dtype - The target.
 * @returns A new dense tensor, also where the dtype stays the same.
 */
export function cast(a: Tensor, dtype: DType): Tensor {
  if (!passesThroughFloats(a, dtype)) return apply("copy", [a], {}, { shape: a.shape, dtype });
  using wide = apply("copy", [a], {}, { shape: a.shape, dtype: "f32" });
  return apply("copy", [wide], {}, { shape: a.shape, dtype });
}

/** Whether a copy takes two steps: backends make blocks of f32 and of the same blocks only, and only f32 of blocks. */
function passesThroughFloats(a: Tensor, dtype: DType): boolean {
  if (a.dtype === dtype) return isBlock(dtype) && !isAligned(a);
  return (isBlock(a.dtype) && dtype !== "f32") || (isBlock(dtype) && a.dtype !== "f32");
}

/**
 * Writes into a window of a tensor, in place: the one operation that changes a tensor.
 *
 * @param into - Any view; its base sees the change. One of `q8` or `q4` starts at a block and has adjacent elements along
 *   its last axis; where it ends inside a block, the rest of that block loses its meaning.
 * @param from - Broadcasts to the shape of `into`; converted to its dtype.
 */
export function assign(into: Tensor, from: Tensor): void {
  if (isBlock(into.dtype) && !isAligned(into)) {
    fail(ShapeError, "assign", "the window cuts through blocks", into, from);
  }
  using source = from.expand(into.shape);
  if (!passesThroughFloats(source, into.dtype)) {
    apply("copy", [source], {}, { into });
    return;
  }
  using wide = cast(source, "f32");
  apply("copy", [wide], {}, { into });
}

/**
 * Joins tensors along one axis.
 *
 * @param parts - At least one tensor; all sizes but that of `axis` agree.
 * @param axis - Where they are joined; negative axes count from the end.
 */
export function concat(parts: readonly Tensor[], axis: number): Tensor {
  const first = parts[0] ?? fail(ArgumentError, "concat", "needs at least one tensor");
  const at = axis < 0 ? axis + first.rank : axis;
  for (const part of parts) {
    const fits =
      part.rank === first.rank &&
      part.shape.every((size, i) => i === at || size === first.shape[i]);
    if (!fits || part.dtype !== first.dtype)
      fail(ShapeError, "concat", "sizes or dtypes differ", ...parts);
  }
  const length = parts.reduce((total, part) => total + part.shape[at]!, 0);
  return scope(() => {
    const shape = first.shape.map((size, i) => (i === at ? length : size));
    const out = empty(first.backend, shape, first.dtype);
    let start = 0;
    for (const part of parts) {
      const end = start + part.shape[at]!;
      assign(out.slice(at, start, end), part);
      start = end;
    }
    return out;
  });
}

/**
 * Rows of a table by index: `table[..., n, w]` and `rows[..., k]` give `[..., k, w]`. Indices outside give zero rows.
 *
 * @param table - At least two axes; leading axes broadcast against those of `rows`. Blocks give f32.
 * @param rows - Indices, `i32` or `u32`.
 */
export function gather(table: Tensor, rows: Tensor): Tensor {
  if (rows.dtype !== "i32" && rows.dtype !== "u32")
    fail(ShapeError, "gather", "rows must be i32 or u32", table, rows);
  if (table.rank < 2 || rows.rank < 1)
    fail(ShapeError, "gather", "needs table[..., n, w] and rows[..., k]", table, rows);
  const batch =
    broadcast(table.shape.slice(0, -2), rows.shape.slice(0, -1)) ??
    fail(ShapeError, "gather", "leading axes do not broadcast", table, rows);
  const [n, w] = table.shape.slice(-2) as [number, number];
  const k = rows.shape.at(-1)!;
  using tables = table.expand([...batch, n, w]);
  using indices = rows.expand([...batch, k]);
  const dtype = isBlock(table.dtype) ? "f32" : table.dtype;
  return apply("gather", [tables, indices], {}, { shape: [...batch, k, w], dtype });
}

/**
 * The indices of the k largest elements of the last axis, largest first; the lower index first among equals.
 *
 * @param a - `[..., n]`.
 * @param k - From 1 to n.
 * @returns `i32[..., k]`.
 */
export function topK(a: Tensor, k: number): Tensor {
  refuseBlocks("topK", a);
  const n = a.shape.at(-1) ?? fail(ShapeError, "topK", "needs an axis", a);
  if (!Number.isInteger(k) || k < 1 || k > n)
    fail(ArgumentError, "topK", `k = ${k} is not from 1 to ${n}`, a);
  return apply("topK", [a], { k }, { shape: [...a.shape.slice(0, -1), k], dtype: "i32" });
}

/**
 * The matrix product `a[..., m, k] · b[..., k, n] → [..., m, n]`; leading axes broadcast. Accumulates in f32 or better.
 *
 * @param a - Floats.
 * @param b - Floats or blocks, of another dtype if need be: the result has that of `a`. A transposed view costs no copy.
 */
export function matmul(a: Tensor, b: Tensor): Tensor {
  requireFloatsAndBlocks("matmul", [a], [b]);
  if (a.rank < 2 || b.rank < 2) fail(ShapeError, "matmul", "needs two axes or more", a, b);
  const [m, k] = a.shape.slice(-2) as [number, number];
  const [rows, n] = b.shape.slice(-2) as [number, number];
  if (k !== rows) fail(ShapeError, "matmul", `inner sizes ${k} and ${rows} differ`, a, b);
  const batch =
    broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2)) ??
    fail(ShapeError, "matmul", "batch axes do not broadcast", a, b);
  using left = a.expand([...batch, m, k]);
  using right = b.expand([...batch, k, n]);
  return apply("matmul", [left, right], {}, { shape: [...batch, m, n], dtype: a.dtype });
}
