import { byteLength, isBlock, type PrimitiveOps } from "@transmla/core";

import { widenBlocks } from "../convert.ts";
import { baseOf, forEachRow, lastStep, type CpuKernel } from "../kernel.ts";

/**
 * Rows of a table by index, copied as bits, or widened where they are blocks. Indices outside the table, negative ones
 * included, give zeros.
 */
export const gather: CpuKernel<PrimitiveOps["gather"]> = (memory, out, [table, rows]) => {
  const { dtype } = table!;
  const bits = byteLength(out.dtype, 1) === 4 ? memory.u32 : memory.u16;
  const base = baseOf(table!);
  const indices = rows!.dtype === "i32" ? memory.i32 : memory.u32;
  const [n, width] = table!.shape.slice(-2) as [number, number];
  const [rowStep, columnStep] = table!.strides.slice(-2) as [number, number];
  const count = rows!.shape.at(-1)!;
  const indexStep = lastStep(rows!);
  forEachRow(rows!.shape, [out, table!, rows!], ([outAt, tableAt, rowsAt]) => {
    for (let i = 0; i < count; i++) {
      const row = indices[rowsAt! + i * indexStep]!;
      const to = outAt! + i * width;
      const from = tableAt! + row * rowStep;
      if (row < 0 || row >= n) bits.fill(0, to, to + width);
      else if (isBlock(dtype)) {
        widenBlocks(memory, dtype, base + byteLength(dtype, from), to, width);
      } else if (columnStep === 1) bits.copyWithin(to, from, from + width);
      else for (let j = 0; j < width; j++) bits[to + j] = bits[from + j * columnStep]!;
    }
  });
};
