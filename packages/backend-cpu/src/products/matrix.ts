import { BLOCK_SIZE, byteLength, isBlock, type BlockDType, type DType } from "@transmla/core";

import { narrow, widen, widenBlocks } from "../convert.ts";
import { isHalf } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import type { Call } from "../simd/kernels.ts";

/** A matrix of f32 in the memory, with any steps. */
export interface Matrix {
  /** The index of the first element. */
  readonly at: number;
  /** How many rows. */
  readonly rows: number;
  /** How many columns. */
  readonly columns: number;
  /** From one row to the next, in elements. */
  readonly rowStep: number;
  /** From one column to the next, in elements. */
  readonly columnStep: number;
}

/**
 * The same elements with rows and columns exchanged.
 *
 * @param x - A matrix.
 */
export function transposed<M extends Matrix>(x: M): M {
  const { rows, columns, rowStep, columnStep } = x;
  return { ...x, rows: columns, columns: rows, rowStep: columnStep, columnStep: rowStep };
}

/**
 * A part of a matrix.
 *
 * @param x - A matrix.
 * @param row - The first row.
 * @param rows - How many rows.
 * @param column - The first column.
 * @param columns - How many columns.
 */
export function part<M extends Matrix>(
  x: M,
  row: number,
  rows: number,
  column: number,
  columns: number,
): M {
  return { ...x, at: x.at + row * x.rowStep + column * x.columnStep, rows, columns };
}

/** A matrix of floats or blocks; its index and steps count elements of that dtype. */
export interface StoredMatrix extends Matrix {
  /** The element type. */
  readonly dtype: DType;
  /** The address from which blocks are counted; 0 for other elements. */
  readonly base?: number;
}

/**
 * The address of the first element.
 *
 * @param x - Floats, or blocks that start with a whole one.
 */
export function addressOf({ dtype, at, base = 0 }: StoredMatrix): number {
  return base + byteLength(dtype, at);
}

/** The size and dtype of a matrix. */
export type Unplaced = Pick<StoredMatrix, "dtype" | "rows" | "columns">;

/**
 * Fills a matrix whose columns follow one another with zeros.
 *
 * @param memory - Where it lies.
 * @param x - A matrix.
 */
export function clear({ f32 }: Memory, { at, rows, columns, rowStep }: Matrix): void {
  for (let i = 0; i < rows; i++) f32.fill(0, at + i * rowStep, at + i * rowStep + columns);
}

/**
 * A matrix as f32: itself, or a widened copy that keeps the order of storage.
 *
 * @param memory - Where it lies.
 * @param x - Floats.
 * @param scratch - Where a copy may be put: {@link widenedSize}.
 */
export function asFloatMatrix(memory: Memory, x: StoredMatrix, scratch: number): Matrix {
  const { dtype, at, rows, columns, rowStep, columnStep } = x;
  if (isBlock(dtype)) return widenedBlocks(memory, x, scratch);
  if (!isHalf(dtype)) return x;
  if (columnStep <= rowStep) {
    for (let i = 0; i < rows; i++) {
      const from = { at: at + i * rowStep, step: columnStep };
      widen(memory, dtype, from, { at: scratch + i * columns, step: 1 }, columns);
    }
    return { at: scratch, rows, columns, rowStep: columns, columnStep: 1 };
  }
  for (let j = 0; j < columns; j++) {
    const from = { at: at + j * columnStep, step: rowStep };
    widen(memory, dtype, from, { at: scratch + j * rows, step: 1 }, rows);
  }
  return { at: scratch, rows, columns, rowStep: 1, columnStep: rows };
}

/**
 * Whether blocks lie along columns, each of which starts with a whole one; along rows otherwise.
 *
 * @param x - Blocks.
 */
export function areColumnsAdjacent({ columns, rowStep, columnStep }: Matrix): boolean {
  return columns === 1 ? rowStep === 1 : columnStep !== 1;
}

function widenedBlocks(memory: Memory, x: StoredMatrix, scratch: number): Matrix {
  return areColumnsAdjacent(x)
    ? transposed(widenedRows(memory, transposed(x), scratch))
    : widenedRows(memory, x, scratch);
}

/**
 * Elements of scratch that widening takes: lines end with whole blocks, whether they are rows or columns.
 *
 * @param x - The largest matrix that is widened.
 */
export function widenedSize({ dtype, rows, columns }: Unplaced): number {
  if (!isBlock(dtype)) return rows * columns;
  const whole = (size: number): number => Math.ceil(size / BLOCK_SIZE) * BLOCK_SIZE;
  return Math.max(whole(rows) * columns, rows * whole(columns));
}

/**
 * Rows of blocks or 16-bit floats as f32.
 *
 * @param memory - Where they lie.
 * @param x - Rows of adjacent elements.
 * @param scratch - Where the copy is put: {@link widenedSize}.
 * @param call - Calls kernels; at once when absent.
 */
export function widenedRows(
  memory: Memory,
  x: StoredMatrix,
  scratch: number,
  call: Call | undefined = memory.simd?.call,
): Matrix {
  const { rows, columns, rowStep } = x;
  const dtype = x.dtype as BlockDType | "f16" | "bf16";
  const pieces = isBlock(dtype) ? Math.ceil(columns / BLOCK_SIZE) : columns;
  const width = isBlock(dtype) ? pieces * BLOCK_SIZE : columns;
  const [from, lineBytes] = [addressOf(x), rows === 1 ? 0 : byteLength(dtype, rowStep)];
  const wide = { at: scratch, rows, columns, rowStep: width, columnStep: 1 };
  if (call) {
    call(`widen ${dtype}`, from, lineBytes, 4 * scratch, rows, pieces);
    return wide;
  }
  for (let i = 0; i < rows; i++) {
    const to = scratch + i * width;
    if (isBlock(dtype)) widenBlocks(memory, dtype, from + i * lineBytes, to, columns);
    else widen(memory, dtype, { at: x.at + i * rowStep, step: 1 }, { at: to, step: 1 }, columns);
  }
  return wide;
}

/**
 * Writes a matrix of f32 into one of 16-bit floats of the same size, rounding once.
 *
 * @param memory - Where both lie.
 * @param from - What is rounded.
 * @param to - Where it goes.
 */
export function narrowMatrix(memory: Memory, from: Matrix, to: StoredMatrix): void {
  if (!isHalf(to.dtype)) return;
  for (let i = 0; i < from.rows; i++) {
    const source = { at: from.at + i * from.rowStep, step: from.columnStep };
    const target = { at: to.at + i * to.rowStep, step: to.columnStep };
    narrow(memory, to.dtype, source, target, from.columns);
  }
}
