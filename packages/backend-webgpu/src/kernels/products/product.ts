import type { GpuOperand } from "../../gpu.ts";
import type { Lanes } from "../../shader.ts";
import { rowBlocks } from "../views.ts";

/** How a matrix is loaded: several neighbours of a row, several neighbours of a column, or one element. */
export type Layout = "rows" | "columns" | "scalars";

/** A matrix of a product. */
export interface Factor {
  readonly operand: GpuOperand;
  readonly layout: Layout;
  /** Elements loaded at once. */
  readonly lanes: Extract<Lanes, 1 | 4>;
  readonly rowStride: number;
  readonly columnStride: number;
  readonly batchStrides: readonly number[];
  readonly offset: number;
}

/** A batch of products `a[m, k] · b[k, n]`, whose results lie one after the other. */
export interface Product {
  readonly m: number;
  readonly k: number;
  readonly n: number;
  /** The sizes of up to four batch axes, and their product. */
  readonly batchShape: readonly number[];
  readonly batches: number;
  readonly a: Factor;
  readonly b: Factor;
  readonly out: GpuOperand;
  readonly outOffset: number;
}

/**
 * The products that `matmul` stands for: one, unless more than four batch axes cannot be merged.
 *
 * @param out - `[..., m, n]`, dense.
 * @param a - `[..., m, k]`.
 * @param b - `[..., k, n]`.
 */
export function describeProduct(out: GpuOperand, a: GpuOperand, b: GpuOperand): Product[] {
  const [m, k] = a.shape.slice(-2) as [number, number];
  const n = b.shape.at(-1)!;
  return rowBlocks(out.shape.slice(0, -2), [a, b, out]).map(
    ({ shape, count, strides, offsets }) => ({
      m,
      k,
      n,
      batchShape: shape,
      batches: count,
      a: matrixOf(a, strides[0]!, offsets[0]!),
      b: matrixOf(b, strides[1]!, offsets[1]!),
      out,
      outOffset: offsets[2]!,
    }),
  );
}

/**
 * Works out how a matrix can be loaded. The stride of an axis of size 1 means nothing.
 *
 * @param operand - The matrix in its last two axes.
 * @param batchStrides - Its strides for the batch axes.
 * @param offset - Where it begins.
 */
export function matrixOf(
  operand: GpuOperand,
  batchStrides: readonly number[],
  offset: number,
): Factor {
  const [rows, columns] = operand.shape.slice(-2) as [number, number];
  const [rowStride, columnStride] = operand.strides.slice(-2) as [number, number];
  const aligned = (size: number, other: number, otherStride: number): boolean =>
    [size, other === 1 ? 0 : otherStride, offset, ...batchStrides].every((x) => x % 4 === 0);
  const common = { operand, rowStride, columnStride, batchStrides, offset };
  // A view of blocks starts at one and steps over whole ones, also where it ends inside one.
  if ((columnStride === 1 || columns === 1) && aligned(columns, rows, rowStride))
    return { ...common, layout: "rows", lanes: 4 };
  if ((rowStride === 1 || rows === 1) && aligned(rows, columns, columnStride))
    return { ...common, layout: "columns", lanes: 4 };
  return { ...common, layout: "scalars", lanes: 1 };
}

type Strides = "batch_shape" | "a_batch" | "b_batch";
type Sizes =
  | ("m" | "k" | "n" | "a_offset" | "b_offset" | "out_offset")
  | ("a_row" | "a_column" | "b_row" | "b_column");

/** The parameters of every shader of products. */
export const productParams: {
  readonly [K in Strides]: "vec4u";
} & { readonly [K in Sizes]: "u32" } = {
  batch_shape: "vec4u",
  a_batch: "vec4u",
  b_batch: "vec4u",
  m: "u32",
  k: "u32",
  n: "u32",
  a_offset: "u32",
  b_offset: "u32",
  out_offset: "u32",
  a_row: "u32",
  a_column: "u32",
  b_row: "u32",
  b_column: "u32",
};

/**
 * The values of {@link productParams}.
 *
 * @param product - A product.
 */
export function productValues(
  product: Product,
): Record<Strides, readonly number[]> & Record<Sizes, number> {
  const { m, k, n, batchShape, a, b, outOffset } = product;
  return {
    batch_shape: batchShape,
    a_batch: a.batchStrides,
    b_batch: b.batchStrides,
    m,
    k,
    n,
    a_offset: a.offset,
    b_offset: b.offset,
    out_offset: outOffset,
    a_row: a.rowStride,
    a_column: a.columnStride,
    b_row: b.rowStride,
    b_column: b.columnStride,
  };
}

/**
 * How a shader finds four elements at once. `a_start(base, row)` and `b_start(base, column)` are taken once; then
 * `a_quad(start, q)` is `a[row, 4q ... 4q + 3]`, and `b_quad(start, q)` is `b[4q ... 4q + 3, column]`, or for rows
 * `b[q, column ... column + 3]`. Beyond k, elements that are loaded one by one are zeros.
 */
export const factorLoads: Readonly<Record<"a" | "b", Readonly<Record<Layout, string>>>> = {
  a: {
    rows: `fn a_start(base: u32, row: u32) -> u32 { return (base + row * params.a_row) / 4u; }
fn a_quad(start: u32, q: u32) -> vec4f { return load_a(start + q); }`,
    columns: scalarsOfA(),
    scalars: scalarsOfA(),
  },
  b: {
    rows: `fn b_start(base: u32, column: u32) -> u32 { return (base + column) / 4u; }
fn b_quad(start: u32, row: u32) -> vec4f { return load_b(start + row * (params.b_row / 4u)); }`,
    columns: `fn b_start(base: u32, column: u32) -> u32 { return (base + column * params.b_column) / 4u; }
fn b_quad(start: u32, q: u32) -> vec4f { return load_b(start + q); }`,
    scalars: `fn b_start(base: u32, column: u32) -> u32 { return base + column * params.b_column; }
${quadOfScalars("b", "params.b_row")}`,
  },
};

function scalarsOfA(): string {
  return `fn a_start(base: u32, row: u32) -> u32 { return base + row * params.a_row; }
${quadOfScalars("a", "params.a_column")}`;
}

/** Four elements one by one. A loop: there would be sixteen copies of the text in a shader, and it is a way for few. */
function quadOfScalars(name: string, step: string): string {
  return `fn ${name}_quad(start: u32, q: u32) -> vec4f {
  var four = vec4f();
  for (var i = 4u * q; i < min(4u * q + 4u, params.k); i++) { four[i - 4u * q] = load_${name}(start + i * ${step}); }
  return four;
}`;
}
