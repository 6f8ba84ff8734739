import type { Kernel, Kernels } from "@transmla/core";

import type { Gpu, GpuKernel } from "../gpu.ts";
import type { WebGpuBuffer } from "../memory.ts";
import type { AnyShader } from "../shader.ts";
import * as attentions from "./attention/attention.ts";
import * as blocks from "./blocks.ts";
import * as copies from "./copy.ts";
import * as elementwise from "./elementwise.ts";
import { expertMatmul } from "./experts.ts";
import * as gathers from "./gather.ts";
import * as products from "./matmul.ts";
import * as normalize from "./normalize.ts";
import * as reduces from "./reduce.ts";
import * as ropes from "./rope.ts";
import * as selection from "./top-k.ts";

/** Every shader of the kernels. */
export const shaders: readonly AnyShader[] = [
  attentions,
  blocks,
  copies,
  elementwise,
  gathers,
  products,
  normalize,
  reduces,
  ropes,
  selection,
].flatMap((file) => file.shaders);

/**
 * The table of kernels.
 *
 * @param gpu - Where they run.
 */
export function kernelsOn(gpu: Gpu): Kernels<WebGpuBuffer> {
  const bound = <Attributes>(kernel: GpuKernel<Attributes>): Kernel<WebGpuBuffer, Attributes> => {
    return (out, inputs, attributes) => kernel(gpu, out, inputs, attributes);
  };
  return {
    fill: bound(elementwise.fill),
    copy: bound(copies.copy),
    unary: bound(elementwise.unary),
    binary: bound(elementwise.binary),
    reduce: bound(reduces.reduce),
    matmul: bound(products.matmul),
    gather: bound(gathers.gather),
    topK: bound(selection.topK),
    softmax: bound(normalize.softmax),
    rmsNorm: bound(normalize.rmsNorm),
    rope: bound(ropes.rope),
    attention: bound(attentions.attention),
    gatedActivation: bound(elementwise.gatedActivation),
    expertMatmul: bound(expertMatmul),
  };
}
