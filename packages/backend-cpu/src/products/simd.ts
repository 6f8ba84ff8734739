import type { DType } from "@transmla/core";

import { widen } from "../convert.ts";
import { isHalf } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import { fewRows, type FewRows } from "../simd/few-rows.ts";
import type { Call, FloatFormat, Kernels } from "../simd/kernels.ts";
import {
  clear,
  part,
  transposed,
  type Matrix,
  type StoredMatrix,
  type Unplaced,
} from "./matrix.ts";
import type { Product } from "./product.ts";
import { LINE, nanosecondsOf } from "./shares.ts";

// Sizes of packed blocks: one of the left matrix and one of the right fit the second-level cache together. They are
// multiples of all tiles.
const BLOCK_ROWS = 192;
const BLOCK_COLUMNS = 512;
const BLOCK_DEPTH = 512;

/**
 * Up to this many rows the other matrix is read where it lies, once for each four rows: wider elements are cheaper to pack
 * than to read again.
 */
const FEW = { half: 8, single: 4 } as const;

const fewFor = (dtype: DType): number => (isHalf(dtype) ? FEW.half : FEW.single);

/** Where packed blocks lie, as indices into f32. */
interface Panels {
  readonly left: number;
  readonly right: number;
  /** One tile. */
  readonly edge: number;
}

/**
 * Takes scratch for products by WebAssembly kernels.
 *
 * @param memory - Where everything lies.
 * @param kernels - The kernels over it.
 * @param a - The largest left matrix.
 * @param b - The largest right matrix.
 */
export function takeSimdProduct(
  memory: Memory,
  kernels: Kernels,
  a: Unplaced,
  b: Unplaced,
): Product {
  const panels = takePanels(memory, kernels, a, b);
  const wide = memory.scratch(isHalf(a.dtype) ? Math.min(a.rows, FEW.half) * a.columns : 0);
  return (left, right, out, accumulate) => {
    const [x, w] = [withSteps(left), withSteps(right)];
    const isFew = x.rows <= fewFor(w.dtype);
    if (x.columns === 0) {
      if (!accumulate) clear(memory, out);
    } else if (isFew && x.columnStep === 1 && w.rowStep === 1) {
      dots(kernels, widened(memory, x, wide), w, out, accumulate);
    } else if (isFew && w.columnStep === 1) {
      if (!accumulate) clear(memory, out);
      combine(kernels, widened(memory, x, wide), w, out);
    } else if (
      w.columns <= FEW.single &&
      !isHalf(w.dtype) &&
      x.columnStep === 1 &&
      w.rowStep === 1
    ) {
      dots(kernels, transposed(w), transposed(x), transposed(out), accumulate);
    } else multiplyBlocks(kernels, panels, x, w, out, accumulate);
  };
}

/**
 * Takes scratch for products that one thread makes as parts of its share of other work.
 *
 * @param memory - Where everything lies.
 * @param kernels - The kernels over it.
 * @param a - The largest left matrix.
 * @param b - The largest right matrix.
 */
export function takeOwnProduct(
  memory: Memory,
  kernels: Kernels,
  a: Unplaced,
  b: Unplaced,
): (call: Call, thread: number) => Product {
  const panels = takePanels(memory, kernels, a, b);
  return (call, thread) => (left, right, out, accumulate) => {
    multiplyShare(call, panels[thread]!, withSteps(left), withSteps(right), out, accumulate);
  };
}

/** Scratch for packed blocks of each thread. */
function takePanels(
  memory: Memory,
  { threads, tile }: Kernels,
  a: Unplaced,
  b: Unplaced,
): readonly Panels[] {
  const toTiles = (size: number, tile: number): number => Math.ceil(size / tile) * tile;
  const depth = Math.min(b.rows, BLOCK_DEPTH);
  const left = Math.min(toTiles(a.rows, tile.rows), BLOCK_ROWS) * depth;
  const right = Math.min(toTiles(b.columns, tile.f32), BLOCK_COLUMNS) * depth;
  const edge = tile.rows * tile.f32;
  const size = toTiles(left, LINE) + toTiles(right, LINE) + edge;
  const start = memory.scratch(threads * size);
  const panels: Panels[] = [];
  for (let at = start; panels.length < threads; at += size) {
    panels.push({ edge: at, left: at + edge, right: at + edge + toTiles(left, LINE) });
  }
  return panels;
}

/** An axis of size 1 may have any step; here it has the one that suits kernels best. */
function withSteps(x: StoredMatrix): StoredMatrix {
  if (x.columns === 1) return { ...x, columnStep: 1 };
  return x.rows === 1 ? { ...x, rowStep: 1 } : x;
}

/** Rows of f32: where they lie, or widened into scratch with adjacent elements. */
function widened(memory: Memory, x: StoredMatrix, scratch: number): StoredMatrix {
  if (!isHalf(x.dtype)) return x;
  for (let i = 0; i < x.rows; i++) {
    const from = { at: x.at + i * x.rowStep, step: x.columnStep };
    widen(memory, x.dtype, from, { at: scratch + i * x.columns, step: 1 }, x.columns);
  }
  return { ...x, dtype: "f32", at: scratch, rowStep: x.columns, columnStep: 1 };
}

const bytesOf = (x: StoredMatrix): number => (isHalf(x.dtype) ? 2 : 4);

/** For rows of `x` and columns of `w` with adjacent elements: inner products. */
function dots(kernels: Kernels, x: Matrix, w: StoredMatrix, y: Matrix, accumulate: boolean): void {
  const bytes = bytesOf(w);
  const work = { items: w.columns, multiple: LINE, nanoseconds: nanosecondsOf(x, w) };
  kernels.split(work, (call, begin, end) => {
    for (let i = 0, rows: FewRows; i < x.rows; i += rows) {
      rows = fewRows(x.rows - i);
      call(
        `dots${rows} ${w.dtype as FloatFormat}`,
        4 * (x.at + i * x.rowStep),
        4 * x.rowStep,
        bytes * (w.at + begin * w.columnStep),
        bytes * w.columnStep,
        4 * (y.at + i * y.rowStep + begin * y.columnStep),
        4 * y.rowStep,
        4 * y.columnStep,
        end - begin,
        w.rows,
        Number(accumulate),
      );
    }
  });
}

/** For rows of `w` with adjacent elements: adds multiples of them to the rows of `y`. */
function combine(kernels: Kernels, x: Matrix, w: StoredMatrix, y: Matrix): void {
  const bytes = bytesOf(w);
  const work = { items: w.columns, multiple: LINE, nanoseconds: nanosecondsOf(x, w) };
  kernels.split(work, (call, begin, end) => {
    for (let i = 0, rows: FewRows; i < x.rows; i += rows) {
      rows = fewRows(x.rows - i);
      call(
        `combine${rows} ${w.dtype as FloatFormat}`,
        4 * (x.at + i * x.rowStep),
        4 * x.rowStep,
        bytes * (w.at + begin),
        bytes * w.rowStep,
        4 * (y.at + i * y.rowStep + begin),
        4 * y.rowStep,
        4 * x.columnStep,
        w.rows,
        end - begin,
      );
    }
  });
}

/** By packed blocks (Goto & van de Geijn 2008), which are widened to f32 where they are not. */
function multiplyBlocks(
  kernels: Kernels,
  panels: readonly Panels[],
  a: StoredMatrix,
  b: StoredMatrix,
  c: Matrix,
  accumulate: boolean,
): void {
  const nanoseconds = nanosecondsOf(a, b);
  const [m, n] = [a.rows, b.columns];
  if (n >= m) {
    const work = { items: n, multiple: kernels.tile.f32, nanoseconds };
    kernels.split(work, (call, begin, end, thread) => {
      const [right, out] = [b, c].map((x) => part(x, 0, x.rows, begin, end - begin));
      multiplyShare(call, panels[thread]!, a, right as StoredMatrix, out!, accumulate);
    });
  } else {
    const work = { items: m, multiple: kernels.tile.rows, nanoseconds };
    kernels.split(work, (call, begin, end, thread) => {
      const [left, out] = [a, c].map((x) => part(x, begin, end - begin, 0, x.columns));
      multiplyShare(call, panels[thread]!, left as StoredMatrix, b, out!, accumulate);
    });
  }
}

function multiplyShare(
  call: Call,
  panels: Panels,
  a: StoredMatrix,
  b: StoredMatrix,
  c: Matrix,
  accumulate: boolean,
): void {
  const [m, k, n] = [a.rows, a.columns, b.columns];
  const pack = (kernel: "packRows" | "packColumns", lines: StoredMatrix, to: number): void => {
    const bytes = bytesOf(lines);
    const { at, rows, columns, rowStep, columnStep } = lines;
    const name = `${kernel} ${lines.dtype as FloatFormat}` as const;
    call(name, bytes * at, bytes * rowStep, bytes * columnStep, rows, columns, 4 * to);
  };
  for (let j = 0; j < n; j += BLOCK_COLUMNS) {
    const columns = Math.min(BLOCK_COLUMNS, n - j);
    for (let p = 0; p < k; p += BLOCK_DEPTH) {
      const depth = Math.min(BLOCK_DEPTH, k - p);
      pack("packColumns", transposed(part(b, p, depth, j, columns)), panels.right);
      for (let i = 0; i < m; i += BLOCK_ROWS) {
        const rows = Math.min(BLOCK_ROWS, m - i);
        pack("packRows", part(a, i, rows, p, depth), panels.left);
        call(
          "multiplyPanels f32",
          4 * panels.left,
          4 * panels.right,
          4 * (c.at + i * c.rowStep + j),
          4 * c.rowStep,
          rows,
          columns,
          depth,
          Number(accumulate || p > 0),
          4 * panels.edge,
        );
      }
    }
  }
}
