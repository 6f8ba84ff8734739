import type { FusedOps } from "@transmla/core";

import type { GpuKernel } from "../gpu.ts";
import { matrixOf, type Product } from "./products/product.ts";
import { rowProduct } from "./products/row.ts";
import { rowBlocks, viewOf } from "./views.ts";

/** Each row times the matrix of its expert, transposed. */
export const expertMatmul: GpuKernel<FusedOps["expertMatmul"]> = (gpu, out, [x, weights, ids]) => {
  const [, n, k] = weights!.shape as [number, number, number];
  const [expertStride, ...matrixStrides] = weights!.strides as [number, number, number];
  // One row serves all experts of a token where x is [..., 1, k].
  const shared = x!.shape.at(-2) === 1 && ids!.shape.at(-1) !== 1;
  const rowStrides = [...x!.strides.slice(0, -2), shared ? 0 : x!.strides.at(-2)!];
  const operands = [{ strides: rowStrides, offset: x!.offset }, ids!, out];
  for (const { shape, count, strides, offsets } of rowBlocks(ids!.shape, operands)) {
    const matrix = viewOf(weights!, { shape: [k, n], strides: matrixStrides.toReversed() });
    const row = viewOf(x!, { shape: [1, k], strides: [k, 1] });
    const product: Product = {
      m: 1,
      k,
      n,
      batchShape: shape,
      batches: count,
      a: matrixOf(row, strides[0]!, offsets[0]!),
      b: matrixOf(matrix, [0, 0, 0, expertStride], weights!.offset),
      out,
      outOffset: offsets[2]!,
    };
    const b = { ...product.b, batchStrides: [0, 0, 0, 0] };
    const chosen = {
      ids: ids!,
      batchStrides: strides[1]!,
      offset: offsets[1]!,
      stride: expertStride,
    };
    rowProduct(gpu, { ...product, b }, chosen);
  }
};
