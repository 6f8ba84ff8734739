import type { PrimitiveOps } from "@transmla/core";

import type { Gpu, GpuKernel } from "../gpu.ts";
import type { AnyShader } from "../shader.ts";
import * as direct from "./products/direct.ts";
import { describeProduct, type Product } from "./products/product.ts";
import * as row from "./products/row.ts";
import * as tiled from "./products/tiled.ts";

/** From this many rows on, a tile of a workgroup is worth its memory. */
const ROWS_OF_A_TILE = 16;

/** Chooses how a product runs. */
function run(gpu: Gpu, product: Product): void {
  if (!gpu.capabilities.cooperative) direct.directProduct(gpu, product);
  else if (product.m >= ROWS_OF_A_TILE) tiled.tiledProduct(gpu, product);
  else if (product.b.layout === "columns") row.rowProduct(gpu, product);
  else direct.directProduct(gpu, product);
}

/** The matrix product over the last two axes. */
export const matmul: GpuKernel<PrimitiveOps["matmul"]> = (gpu, out, [a, b]) => {
  for (const product of describeProduct(out, a!, b!)) run(gpu, product);
};

export const shaders: readonly AnyShader[] = [direct, row, tiled].flatMap(({ shaders }) => shaders);
