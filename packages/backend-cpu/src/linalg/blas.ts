import { BackendError } from "@transmla/core";
import { plainBlas, type Blas, type Block } from "@transmla/core/linalg";

import type { Memory } from "../memory.ts";
import type { Call, Kernels } from "../simd/kernels.ts";

// Sizes of packed blocks: one of each factor fits the second-level cache.
const BLOCK_ROWS = 96;
const BLOCK_COLUMNS = 256;
const BLOCK_DEPTH = 256;

/** Products with fewer multiplications are not worth packing. */
const SMALL = 4096;

/** What lies outside of the memory is copied for a product whose three sizes are at least this. */
const WORTH_A_COPY = 16;

/** A vector, times alpha, takes the place of a packed block; longer ones go in pieces. */
const LONGEST_VECTOR = BLOCK_ROWS * BLOCK_DEPTH;

const BYTES = 8;

/** How many multiplications with additions one thread does in a nanosecond, about. */
const RATE = 10;

/** Threads share the rows of a vector in multiples of a cache line. */
const LINE = 8;

/** Scratch of one thread, as indices into f64. */
interface Panels {
  readonly left: number;
  readonly right: number;
  readonly tile: number;
}

/** What is set aside for one factorisation. The memory must not grow meanwhile. */
interface Storage {
  readonly f64: Float64Array;
  /** Of each thread. */
  readonly panels: readonly Panels[];
  readonly end: number;
  /** The next entry to give away. */
  free: number;
}

/**
 * The kernels of core's linear algebra in WebAssembly. Working storage is set aside in the memory; what lies elsewhere
 * is copied for large products, and multiplied by {@link plainBlas} for others. Where the memory has no room, everything
 * is.
 *
 * @param memory - Takes scratch from it, and all of it is given back.
 * @param kernels - The kernels over it.
 */
export function blasOn(memory: Memory, kernels: Kernels): Blas {
  let storage: Storage | undefined;

  function withStorage<T>(length: number, body: () => T): T {
    if (storage) return body();
    memory.requireOpen("linalg");
    try {
      storage = setAside(memory, kernels, length);
      return body();
    } finally {
      storage = undefined;
      memory.releaseScratch();
    }
  }

  function multiply(own: Storage, alpha: number, a: Block, b: Block, beta: number, c: Block): void {
    scale(beta, c);
    addProduct(kernels, own.panels, alpha, a, b, c);
  }

  /** Runs a product on copies of what is not in the memory. Returns `false` where they have no room. */
  function onCopies(alpha: number, a: Block, b: Block, beta: number, c: Block): boolean {
    const own = storage;
    if (!own) return false;
    const outside = [a, b, c].filter((x) => !isInside(own, x));
    if (outside.reduce((sum, x) => sum + spanOf(x), 0) > own.end - own.free) return false;
    const start = own.free;
    const copied = (x: Block): Block => {
      if (isInside(own, x)) return placed(own, x);
      own.f64.set(x.data.subarray(x.offset, x.offset + spanOf(x)), own.free);
      const copy = moved(x, own.f64, own.free);
      own.free += spanOf(x);
      return copy;
    };
    const to = copied(c);
    multiply(own, alpha, copied(a), copied(b), beta, to);
    if (!isInside(own, c)) {
      c.data.set(own.f64.subarray(to.offset, to.offset + spanOf(c)), c.offset);
    }
    own.free = start;
    return true;
  }

  return {
    withStorage,
    allocate(length) {
      if (!storage || storage.free + length > storage.end) return new Float64Array(length);
      const array = storage.f64.subarray(storage.free, storage.free + length).fill(0);
      storage.free += length;
      return array;
    },
    gemm(alpha, a, b, beta, c) {
      const own = storage;
      const [m, k, n] = [a.rows, a.cols, b.cols];
      const hasKernels = c.rowStride === 1 || c.colStride === 1 || m === 1 || n === 1;
      if (m * k * n < SMALL || !hasKernels) plainBlas.gemm(alpha, a, b, beta, c);
      else if (own && isInside(own, a) && isInside(own, b) && isInside(own, c)) {
        multiply(own, alpha, placed(own, a), placed(own, b), beta, placed(own, c));
      } else if (
        Math.min(m, k, n) < WORTH_A_COPY ||
        !withStorage(spanOf(a) + spanOf(b) + spanOf(c), () => onCopies(alpha, a, b, beta, c))
      ) {
        plainBlas.gemm(alpha, a, b, beta, c);
      }
    },
    multiplyBoth(a, x, y, u, v) {
      const own = storage;
      if (!own || ![a, x, y, u, v].every((block) => isInside(own, block))) {
        plainBlas.multiplyBoth(a, x, y, u, v);
        return;
      }
      const address = (block: Block): number => placed(own, block).offset * BYTES;
      const vectors = [x, y, u, v].map(address) as [number, number, number, number];
      kernels.get("both f64")(...vectors, address(a), a.rowStride * BYTES, a.rows, a.cols);
    },
  };
}

/** The factors and the result of a product. */
type Operands = readonly [a: Block, b: Block, c: Block];

/** Takes scratch; nothing where the memory has no room. */
function setAside(memory: Memory, kernels: Kernels, length: number): Storage | undefined {
  const take = (count: number): number => memory.scratch(2 * count) / 2;
  try {
    const panels = Array.from({ length: kernels.threads }, () => ({
      left: take(BLOCK_ROWS * BLOCK_DEPTH),
      right: take(BLOCK_COLUMNS * BLOCK_DEPTH),
      tile: take(kernels.tile.rows * kernels.tile.f64),
    }));
    const free = take(length);
    return { f64: memory.f64, panels, free, end: free + length };
  } catch (error) {
    if (error instanceof BackendError) return undefined;
    throw error;
  }
}

function isInside({ f64 }: Storage, { data }: Block): boolean {
  return data.buffer === f64.buffer;
}

/** The block with its position in the memory. */
function placed({ f64 }: Storage, x: Block): Block {
  return moved(x, f64, x.data.byteOffset / BYTES + x.offset);
}

// Spelt out: thousands of these are made in a factorisation, and spreading takes several times as long.

/** The same block in another array. */
function moved(x: Block, data: Float64Array, offset: number): Block {
  const { rows, cols, rowStride, colStride } = x;
  return { data, offset, rows, cols, rowStride, colStride };
}

/** From the first entry of a block to the last, in the array it lies in. */
function spanOf({ rows, cols, rowStride, colStride }: Block): number {
  return (rows - 1) * rowStride + (cols - 1) * colStride + 1;
}

/** `c <- c + alpha a b` in the memory. */
function addProduct(
  kernels: Kernels,
  panels: readonly Panels[],
  alpha: number,
  a: Block,
  b: Block,
  c: Block,
): void {
  if (c.cols === 1) multiplyVector(kernels, panels[0]!.left, alpha, a, b, c);
  else if (c.rows === 1 || c.colStride !== 1) {
    addProduct(kernels, panels, alpha, transposed(b), transposed(a), transposed(c));
  } else multiplyBlocks(kernels, panels, alpha, a, b, c);
}

function transposed(x: Block): Block {
  const { data, offset, rows, cols, rowStride, colStride } = x;
  return { data, offset, rows: cols, cols: rows, rowStride: colStride, colStride: rowStride };
}

function part(x: Block, row: number, rows: number, col: number, cols: number): Block {
  const { data, rowStride, colStride } = x;
  const offset = x.offset + row * rowStride + col * colStride;
  return { data, offset, rows, cols, rowStride, colStride };
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
  vector: number,
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
  for (let start = 0; start < x.rows; start += LONGEST_VECTOR) {
    const count = Math.min(LONGEST_VECTOR, x.rows - start);
    for (let i = 0; i < count; i++) {
      data[vector + i] = alpha * data[x.offset + (start + i) * x.rowStride]!;
    }
    const work = { items: a.rows, multiple: LINE, nanoseconds: (a.rows * count) / RATE };
    kernels.split(work, (call, begin, end) => {
      const rows = end - begin;
      const matrix = part(a, begin, rows, start, count).offset * BYTES;
      const to = part(y, begin, rows, 0, 1).offset * BYTES;
      if (adjacentRows) {
        const [line, step] = [a.rowStride * BYTES, y.rowStride * BYTES];
        call("dots1 f64", vector * BYTES, 0, matrix, line, to, 0, step, rows, count, 1);
      } else {
        const line = a.colStride * BYTES;
        call("combine1 f64", vector * BYTES, 0, matrix, line, to, 0, BYTES, count, rows);
      }
    });
  }
}

/** `c <- c + alpha a b` where the rows of `c` are contiguous, by packed blocks. */
function multiplyBlocks(
  kernels: Kernels,
  panels: readonly Panels[],
  alpha: number,
  a: Block,
  b: Block,
  c: Block,
): void {
  const [m, n] = [c.rows, c.cols];
  const byColumns = n >= m;
  const [items, multiple] = byColumns ? [n, kernels.tile.f64] : [m, kernels.tile.rows];
  const work = { items, multiple, nanoseconds: (m * a.cols * n) / RATE };
  kernels.split(work, (call, begin, end, thread) => {
    const count = end - begin;
    const [left, right, out] = byColumns
      ? [a, part(b, 0, b.rows, begin, count), part(c, 0, m, begin, count)]
      : [part(a, begin, count, 0, a.cols), b, part(c, begin, count, 0, n)];
    multiplyShare(call, kernels.tile.rows, panels[thread]!, alpha, [left, right, out]);
  });
}

function multiplyShare(
  call: Call,
  tileRows: number,
  { left, right, tile }: Panels,
  alpha: number,
  [a, b, c]: Operands,
): void {
  const pack = (kernel: "packRows f64" | "packColumns f64", x: Block, to: number): void => {
    const [at, line, step] = [x.offset, x.rowStride, x.colStride].map((n) => n * BYTES);
    call(kernel, at!, line!, step!, x.rows, x.cols, to * BYTES);
  };
  for (let j = 0; j < c.cols; j += BLOCK_COLUMNS) {
    const cols = Math.min(BLOCK_COLUMNS, c.cols - j);
    for (let p = 0; p < a.cols; p += BLOCK_DEPTH) {
      const depth = Math.min(BLOCK_DEPTH, a.cols - p);
      pack("packColumns f64", transposed(part(b, p, depth, j, cols)), right);
      for (let i = 0; i < c.rows; i += BLOCK_ROWS) {
        const rows = Math.min(BLOCK_ROWS, c.rows - i);
        pack("packRows f64", part(a, i, rows, p, depth), left);
        const packed = Math.ceil(rows / tileRows) * tileRows * depth;
        if (alpha !== 1) call("scale f64", left * BYTES, packed, alpha);
        call(
          "multiplyPanels f64",
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
