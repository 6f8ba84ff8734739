import { block, part, transposed } from "../blas.ts";
import type { Blas, Block } from "../blas.ts";
import { largestMagnitude } from "../matrix.ts";

/**
 * The product H(0) H(1) ... of Householder reflectors H(i) = I - tau[i] v vᵀ. Row i of `rows` holds
 * v: zeros, a 1 in column i + `shift`, then the rest.
 */
export interface Reflectors {
  readonly rows: Block;
  readonly tau: Float64Array;
  readonly shift: number;
}

/** The panel width of the reductions. */
export const PANEL = 32;

/** Reflectors that are accumulated into one block: a wider one passes over the matrix less often. */
const BLOCK = 64;

/** Sums of squares outside of these bounds may have lost digits to underflow, or overflowed. */
export const SMALLEST_SQUARE = 1e-280;
const LARGEST_SQUARE = 1e280;

function sumOfSquares(x: Float64Array, from: number, to: number, scale: number): number {
  let sum = 0;
  for (let i = from; i < to; i++) sum += (x[i]! / scale) ** 2;
  return sum;
}

/**
 * Finds the reflector that maps a contiguous column x to beta e₁, and overwrites x with its vector v,
 * v₀ = 1. Golub & Van Loan, Matrix Computations, 5.1.3; signs as LAPACK `dlarfg`.
 */
export function makeReflector(column: Block): { readonly beta: number; readonly tau: number } {
  const { data: x, offset } = column;
  const end = offset + column.rows;
  const head = x[offset]!;
  let scale = 1;
  let tail = sumOfSquares(x, offset + 1, end, scale);
  if (!(tail + head * head > SMALLEST_SQUARE && tail + head * head < LARGEST_SQUARE)) {
    scale = largestMagnitude(x.subarray(offset, end)) || 1;
    tail = sumOfSquares(x, offset + 1, end, scale);
  }
  x[offset] = 1;
  if (tail === 0) {
    x.fill(0, offset + 1, end);
    return { beta: head, tau: 0 };
  }
  const scaledHead = head / scale;
  const norm = Math.sqrt(scaledHead * scaledHead + tail);
  const beta = scaledHead >= 0 ? -norm : norm;
  for (let i = offset + 1; i < end; i++) x[i] = x[i]! / scale / (scaledHead - beta);
  return { beta: beta * scale, tau: (beta - scaledHead) / beta };
}

/** Storage for the products of a panel with a matrix. */
export interface PanelScratch {
  readonly gram: Float64Array;
  readonly triangle: Float64Array;
  readonly projected: Float64Array;
  readonly combined: Float64Array;
}

/** Allocates the storage for products of panels up to a width with matrices of up to `cols` columns. */
export function panelScratch(blas: Blas, cols: number, width: number): PanelScratch {
  return {
    gram: blas.allocate(width * width),
    triangle: blas.allocate(width * width),
    projected: blas.allocate(width * cols),
    combined: blas.allocate(width * cols),
  };
}

/** Some reflectors as I - Vᵀ T V: V has their vectors as rows, T is triangular. */
export interface Panel {
  readonly v: Block;
  readonly tau: Float64Array;
}

/**
 * The upper triangle T. Schreiber & Van Loan, A storage-efficient WY representation for products of
 * Householder transformations (1989); LAPACK `dlarft`.
 */
function compactTriangle(blas: Blas, { v, tau }: Panel, scratch: PanelScratch): Block {
  const k = v.rows;
  const gram = block(scratch.gram, k, k);
  const triangle = block(scratch.triangle, k, k);
  const t = triangle.data;
  blas.gemm(1, v, transposed(v), 0, gram);
  t.fill(0);
  for (let j = 0; j < k; j++) {
    t[j * k + j] = tau[j]!;
    for (let i = 0; i < j; i++) {
      let sum = 0;
      for (let p = i; p < j; p++) sum += t[i * k + p]! * gram.data[p * k + j]!;
      t[i * k + j] = -tau[j]! * sum;
    }
  }
  return triangle;
}

/** Multiplies `c` from the left by the product of the reflectors of a panel, or by its transpose. */
export function applyPanel(
  blas: Blas,
  panel: Panel,
  c: Block,
  scratch: PanelScratch,
  direction: "product" | "transpose",
): void {
  const triangle = compactTriangle(blas, panel, scratch);
  const projected = block(scratch.projected, panel.v.rows, c.cols);
  const combined = block(scratch.combined, panel.v.rows, c.cols);
  blas.gemm(1, panel.v, c, 0, projected);
  blas.gemm(1, direction === "product" ? triangle : transposed(triangle), projected, 0, combined);
  blas.gemm(-1, transposed(panel.v), combined, 1, c);
}

/** Multiplies `c` from the left by the product of the reflectors, a panel at a time, last one first. */
export function applyReflectors(blas: Blas, reflectors: Reflectors, c: Block): void {
  const { rows, tau, shift } = reflectors;
  const scratch = panelScratch(blas, c.cols, BLOCK);
  for (let start = BLOCK * Math.floor((tau.length - 1) / BLOCK); start >= 0; start -= BLOCK) {
    const end = Math.min(start + BLOCK, tau.length);
    const from = start + shift;
    const panel = {
      v: part(rows, start, from, end - start, rows.cols - from),
      tau: tau.subarray(start, end),
    };
    applyPanel(blas, panel, part(c, from, 0, c.rows - from, c.cols), scratch, "product");
  }
}
