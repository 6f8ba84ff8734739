import type { Routines } from "@transmla/core";

import type { Gpu } from "../gpu.ts";
import type { WebGpuBuffer } from "../memory.ts";
import { eigh } from "./eigh.ts";
import { decompose, transposed } from "./svd.ts";
import { Workspace, type Memory } from "./workspace.ts";

/**
 * Factorisations in shaders, in f32: errors of singular values and eigenvalues are a few units of f32 roundoff times the
 * largest magnitude among them, and vectors are orthonormal to about as much.
 *
 * @param gpu - Where they run.
 * @param memory - Of the same backend.
 */
export function routinesOn(gpu: Gpu, memory: Memory): Routines<WebGpuBuffer> {
  return {
    svd: async ([u, s, v], a) => {
      using workspace = new Workspace(gpu, memory);
      const [m, n] = a.shape as [number, number];
      const subject = { operation: "svd", shape: `${m}×${n}` };
      const isWide = m < n;
      const factors = await decompose(workspace, isWide ? transposed(a) : a, subject);
      workspace.write(s, factors.values);
      factors.writeLeft(isWide ? v : u);
      factors.writeRight(isWide ? u : v);
    },
    eigh: async ([values, vectors], a) => {
      using workspace = new Workspace(gpu, memory);
      await eigh(workspace, values, vectors, a);
    },
  };
}
