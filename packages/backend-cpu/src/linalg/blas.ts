import { plainBlas, type Blas, type Block } from "@transmla/core/linalg";

import type { Memory } from "../memory.ts";
import { TILE_COLUMNS, type Kernels } from "../simd/kernels.ts";
import { TILE_ROWS } from "../simd/tile.ts";

// Sizes of packed blocks: one of each factor fits the second-level cache.
const BLOCK_ROWS = 96;
const BLOCK_COLUMNS = 256;
const BLOCK_DEPTH = 256;

/** Products with fewer multiplications are not worth packing. */
const SMALL = 4096;

/** What lies outside of the memory is copied for a product whose three sizes are at least this. */
const WORTH_A_COPY = 16;

const BYTES = 8;

/** Scratch, as indices into f64. */
interface Panels {
  readonly left: number;
  readonly right: number;
  readonly tile: number;
  /** A vector, times alpha. */
  readonly vector: number;
}

/**
 * The kernels of core's factorisations in WebAssembly. Their working storage is in the memory as far as it was reserved;
 * what lies elsewhere is copied for large products, and multiplied by {@link plainBlas} for others.
 *
 * @param memory - Must not grow while the kernels are used; its scratch is taken and not given back.
 * @param kernels - The kernels over it.
 * @param storage - How many f64 the factorisation may allocate in the memory.
 * @param longest - The longest vector.
 */
export function takeBlas(memory: Memory, kernels: Kernels, storage: number, longest: number): Blas {
  const take = (length: number): number => memory.scratch(2 * length) / 2;
  const panels: Panels = {
    left: take(BLOCK_ROWS * BLOCK_DEPTH),
    right: take(BLOCK_COLUMNS * BLOCK_DEPTH),
    tile: take(TILE_ROWS * TILE_COLUMNS.f64),
    vector: take(longest),
  };
  let free = take(storage);
  const end = free + storage;
  const { f64 } = memory;
  const isInside = ({ data }: Block): boolean => data.buffer === f64.buffer;
  /** The block with its position in the memory. */
  const placed = (x: Block): Block => {
    return { ...x, data: f64, offset: x.data.byteOffset / BYTES + x.offset };
  };
  /** Runs a product on copies of what is not in the memory. Returns `false` where they have no room. */
  const onCopies = (a: Block, b: Block, c: Block, run: Multiply): boolean => {
    const outside = [a, b, c].filter((x) => !isInside(x));
    if (outside.reduce((sum, x) => sum + spanOf(x), 0) > end - free) return false;
    const start = free;
    const copied = (x: Block): Block => {
      if (isInside(x)) return placed(x);
      f64.set(x.data.subarray(x.offset, x.offset + spanOf(x)), free);
      const copy = { ...x, data: f64, offset: free };
      free += spanOf(x);
      return copy;
    };
    const to = copied(c);
    run(copied(a), copied(b), to);
    if (!isInside(c)) c.data.set(f64.subarray(to.offset, to.offset + spanOf(c)), c.offset);
    free = start;
    return true;
  };
  return {
    allocate(length) {
      if (free + length > end) return new Float64Array(length);
      const array = f64.subarray(free, free + length).fill(0);
      free += length;
      return array;
    },
    gemm(alpha, a, b, beta, c) {
      const multiply: Multiply = (left, right, to) => {
        scale(beta, to);
        addProduct(kernels, panels, alpha, left, right, to);
      };
      const [m, k, n] = [a.rows, a.cols, b.cols];
      const hasKernels = c.rowStride === 1 || c.colStride === 1 || m === 1 || n === 1;
      const small = m * k * n < SMALL || !hasKernels;
      if (!small && isInside(a) && isInside(b) && isInside(c)) {
        multiply(placed(a), placed(b), placed(c));
      } else if (small || Math.min(m, k, n) < WORTH_A_COPY || !onCopies(a, b, c, multiply)) {
        plainBlas.gemm(alpha, a, b, beta, c);
      }
    },
  };
}

type Multiply = (a: Block, b: Block, c: Block) => void;

/** From the first entry of a block to the last, in the array it lies in. */
function spanOf({ rows, cols, rowStride, colStride }: Block): number {
  return (rows - 1) * rowStride + (cols - 1) * colStride + 1;
}

/** `c <- c + alpha a b` in the memory. */
function addProduct(
  kernels: Kernels,
  panels: Panels,
  alpha: number,
  a: Block,
  b: Block,
  c: Block,
): void {
  if (c.cols === 1) multiplyVector(kernels, panels.vector, alpha, a, b, c);
  else if (c.rows === 1 || c.colStride !== 1) {
    addProduct(kernels, panels, alpha, transposed(b), transposed(a), transposed(c));
  } else multiplyBlocks(kernels, panels, alpha, a, b, c);
}

function transposed(x: Block): Block {
  return { ...x, rows: x.cols, cols: x.rows, rowStride: x.colStride, colStride: x.rowStride };
}

function part(x: Block, row: number, rows: number, col: number, cols: number): Block {
  return { ...x, offset: x.offset + row * x.rowStride + col * x.colStride, rows, cols };
}

/** `c <- beta c`; with `beta` 0 the old value does not count. */
function scale(beta: number, { data, offset, rows, cols, rowStride, colStride }: Block): void {
  if (beta === 1) return;
  for (let i = 0; i < rows; i++) {
    for (let j = 0, at = offset + i * rowStride; j < cols; j++, at += colStride) {
      data[at] = beta === 0 ? 0 : beta * data[at]!;
    }
  }
}

/** `y <- y + alpha a x` for columns `x` and `y`. */
function multiplyVector(
  kernels: Kernels,
  scratch: number,
  alpha: number,
  a: Block,
  x: Block,
  y: Block,
): void {
  const { data } = x;
  const adjacentRows = a.colStride === 1 || a.cols === 1;
  const adjacentColumns = a.rowStride === 1 || a.rows === 1;
  if (!adjacentRows && !(adjacentColumns && y.rowStride === 1)) {
    plainBlas.gemm(alpha, a, x, 1, y);
    return;
  }
  for (let i = 0; i < x.rows; i++) data[scratch + i] = alpha * data[x.offset + i * x.rowStride]!;
  const [vector, matrix, to] = [scratch, a.offset, y.offset].map((at) => at * BYTES) as [
    number,
    number,
    number,
  ];
  if (adjacentRows) {
    const [line, step] = [a.rowStride * BYTES, y.rowStride * BYTES];
    kernels.get("dots1 f64")(vector, 0, matrix, line, to, 0, step, a.rows, a.cols, 1);
  } else {
    const line = a.colStride * BYTES;
    kernels.get("combine1 f64")(vector, 0, matrix, line, to, 0, BYTES, a.cols, a.rows);
  }
}

/** `c <- c + alpha a b` where the rows of `c` are contiguous, by packed blocks. */
function multiplyBlocks(
  kernels: Kernels,
  { left, right, tile }: Panels,
  alpha: number,
  a: Block,
  b: Block,
  c: Block,
): void {
  const { data } = a;
  const pack = (kernel: "packRows f64" | "packColumns f64", x: Block, to: number): void => {
    const [at, line, step] = [x.offset, x.rowStride, x.colStride].map((n) => n * BYTES);
    kernels.get(kernel)(at!, line!, step!, x.rows, x.cols, to * BYTES);
  };
  for (let j = 0; j < c.cols; j += BLOCK_COLUMNS) {
    const cols = Math.min(BLOCK_COLUMNS, c.cols - j);
    for (let p = 0; p < a.cols; p += BLOCK_DEPTH) {
      const depth = Math.min(BLOCK_DEPTH, a.cols - p);
      pack("packColumns f64", transposed(part(b, p, depth, j, cols)), right);
      for (let i = 0; i < c.rows; i += BLOCK_ROWS) {
        const rows = Math.min(BLOCK_ROWS, c.rows - i);
        pack("packRows f64", part(a, i, rows, p, depth), left);
        const packed = Math.ceil(rows / TILE_ROWS) * TILE_ROWS * depth;
        if (alpha !== 1) multiplyAll(data, left, packed, alpha);
        kernels.get("multiplyPanels f64")(
          left * BYTES,
          right * BYTES,
          part(c, i, rows, j, cols).offset * BYTES,
          c.rowStride * BYTES,
          rows,
          cols,
          depth,
          1,
          tile * BYTES,
        );
      }
    }
  }
}

function multiplyAll(data: Float64Array, from: number, count: number, factor: number): void {
  for (let i = from; i < from + count; i++) data[i]! *= factor;
}
