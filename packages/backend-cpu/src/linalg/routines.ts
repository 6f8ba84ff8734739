import { BackendError, decode, type Routines } from "@transmla/core";
import { eigh, plainBlas, qr, svd, type Blas, type Matrix } from "@transmla/core/linalg";

import { isHalf, startOf, type CpuOperand } from "../kernel.ts";
import type { CpuBuffer, Memory } from "../memory.ts";
import type { Kernels } from "../simd/kernels.ts";
import { takeBlas } from "./blas.ts";

/** What the factorisations allocate, in multiples of the matrix: more is computed outside of the memory. */
const STORAGE = 10;

/**
 * Core's factorisations with the products in WebAssembly.
 *
 * @param memory - Where the operands lie.
 * @param kernels - The kernels over it.
 */
export function routinesOn(memory: Memory, kernels: Kernels): Routines<CpuBuffer> {
  /** Runs a factorisation without waiting, and writes its factors. */
  const run = (
    outputs: readonly CpuOperand[],
    a: CpuOperand,
    factorise: (matrix: Matrix, blas: Blas) => readonly (Matrix | Float64Array)[],
  ): void => {
    const [rows, cols] = a.shape as [number, number];
    try {
      const data = Float64Array.from(decode(elementsOf(memory, a), a.dtype));
      const blas = blasFor(memory, kernels, rows, cols);
      const factors = factorise({ rows, cols, data }, blas);
      outputs.forEach((output, i) => {
        const factor = factors[i]!;
        memory.f32.set(factor instanceof Float64Array ? factor : factor.data, startOf(output));
      });
    } finally {
      memory.releaseScratch();
    }
  };
  return {
    svd: async (outputs, a) =>
      run(outputs, a, (matrix, blas) => {
        const { u, s, v } = svd(matrix, { blas });
        return [u, s, v];
      }),
    qr: async (outputs, a) =>
      run(outputs, a, (matrix, blas) => {
        const { q, r } = qr(matrix, { blas });
        return [q, r];
      }),
    eigh: async (outputs, a) =>
      run(outputs, a, (matrix, blas) => {
        const { values, vectors } = eigh(matrix, { blas });
        return [values, vectors];
      }),
  };
}

/** The elements of a dense matrix of floats, as stored. */
function elementsOf(memory: Memory, a: CpuOperand): Float32Array | Uint16Array {
  const at = startOf(a);
  const end = at + a.shape[0]! * a.shape[1]!;
  return isHalf(a.dtype) ? memory.u16.subarray(at, end) : memory.f32.subarray(at, end);
}

/** The kernels in WebAssembly, or the plain ones where the memory has no room for their storage. */
function blasFor(memory: Memory, kernels: Kernels, rows: number, cols: number): Blas {
  try {
    return takeBlas(memory, kernels, STORAGE * rows * cols, Math.max(rows, cols));
  } catch (error) {
    if (error instanceof BackendError) return plainBlas;
    throw error;
  }
}
