import type { Kernel, Kernels, Ops } from "@transmla/core";

import type { Gpu, GpuKernel } from "../gpu.ts";
import type { WebGpuBuffer } from "../memory.ts";
import type { AnyShader } from "../shader.ts";
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
  const bound = <K extends keyof Ops>(
    _name: K,
    kernel: GpuKernel<Ops[K]>,
  ): Kernel<WebGpuBuffer, Ops[K]> => {
    return (out, inputs, attributes) => {
      kernel(gpu, out, inputs, attributes);
    };
  };
  return {
    fill: bound("fill", elementwise.fill),
    copy: bound("copy", copies.copy),
    unary: bound("unary", elementwise.unary),
    binary: bound("binary", elementwise.binary),
    reduce: bound("reduce", reduces.reduce),
    matmul: bound("matmul", products.matmul),
    gather: bound("gather", gathers.gather),
    topK: bound("topK", selection.topK),
    softmax: bound("softmax", normalize.softmax),
    rmsNorm: bound("rmsNorm", normalize.rmsNorm),
    rope: bound("rope", ropes.rope),
    gatedActivation: bound("gatedActivation", elementwise.gatedActivation),
    expertMatmul: bound("expertMatmul", expertMatmul),
  };
}
