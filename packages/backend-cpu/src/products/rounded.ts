import { BLOCK_SIZE, byteLength, type BlockDType } from "@transmla/core";

import { widen } from "../convert.ts";
import { isHalf } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import { ROUNDED_BYTES } from "../simd/blocks.ts";
import { fewRows } from "../simd/few-rows.ts";
import type { Kernels } from "../simd/kernels.ts";
import { addressOf, type StoredMatrix, type Unplaced } from "./matrix.ts";
import type { Product } from "./product.ts";
import { LINE, nanosecondsOf } from "./shares.ts";

/** Up to this many rows, rounding them costs less than widening the blocks. */
export const FEW_ROUNDED = 4;

/**
 * Takes scratch for products of few rows with blocks that lie along the columns of the right matrix. The elements of a row
 * are adjacent.
 *
 * @param memory - Where everything lies.
 * @param kernels - The kernels over it.
 * @param a - The largest left matrix.
 * @param b - The largest right matrix.
 */
export function takeRoundedProduct(
  memory: Memory,
  kernels: Kernels,
  a: Unplaced,
  b: Unplaced,
): Product {
  const most = Math.min(a.rows, FEW_ROUNDED);
  const blocksOf = (depth: number): number => Math.ceil(depth / BLOCK_SIZE);
  const padded = memory.scratch(blocksOf(a.columns) * BLOCK_SIZE);
  const rounded = memory.scratch((most * blocksOf(a.columns) * ROUNDED_BYTES) / 4);
  const dtype = b.dtype as BlockDType;
  const roundRow = kernels.get("roundRow");

  /** A row as whole blocks of f32: where it lies, or with zeros behind it. */
  const wholeBlocks = (x: StoredMatrix, row: number): number => {
    const { f32 } = memory;
    const from = x.at + row * x.rowStep;
    if (isHalf(x.dtype)) {
      widen(memory, x.dtype, { at: from, step: 1 }, { at: padded, step: 1 }, x.columns);
    } else if (x.columns % BLOCK_SIZE === 0) return from;
    else f32.copyWithin(padded, from, from + x.columns);
    f32.fill(0, padded + x.columns, padded + blocksOf(x.columns) * BLOCK_SIZE);
    return padded;
  };

  return (x, w, y, accumulate) => {
    const blocks = blocksOf(x.columns);
    const rowBytes = blocks * ROUNDED_BYTES;
    for (let i = 0; i < x.rows; i++) {
      roundRow(4 * wholeBlocks(x, i), 4 * rounded + i * rowBytes, blocks);
    }
    const work = { items: w.columns, multiple: LINE, nanoseconds: nanosecondsOf(x, w) };
    const step = w.columns === 1 ? 0 : w.columnStep;
    kernels.split(work, (call, begin, end) => {
      for (let i = 0, rows = fewRows(x.rows); i < x.rows; i += rows) {
        rows = fewRows(x.rows - i);
        call(
          `dots${rows} ${dtype}`,
          4 * rounded + i * rowBytes,
          rowBytes,
          addressOf({ ...w, at: w.at + begin * step }),
          byteLength(dtype, step),
          4 * (y.at + i * y.rowStep + begin),
          4 * y.rowStep,
          4,
          end - begin,
          blocks,
          Number(accumulate),
        );
      }
    });
  };
}
