import { eigh, matrix, transpose, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

import type { GroupedAttention } from "../../../model/config/model-config.ts";
import type { Slots } from "../steps/slots.ts";

// RoRoPE and FreqFold (arXiv 2502.07864, section 4.2). The keys of all kv heads at one frequency are rotated by an
// orthogonal matrix, the same for real and imaginary parts, which commutes with RoPE and collects their energy in the
// first component. With a fold of F, F adjacent frequencies are taken for one: the components of a group mix them.

/** The keys of all kv heads in principal components: those that keep RoPE, and the others. */
export interface RotatedKeys {
  /** What keeps its rotation, orthonormal: `rebuild` is the transpose of `read`. */
  readonly slots: Slots;
  /** `[g d - d_r, g d]`: all other components, orthonormal. */
  readonly rest: Matrix;
}

/**
 * Rotates the keys so that the first components of each group of frequencies hold most energy, and keeps RoPE for those.
 *
 * Slot j of group i rotates at the frequency of pair `i F + collapse j`, `collapse = d / d_r`: every `collapse`-th
 * frequency of the source, which a narrower RoPE of the same base has.
 *
 * @param uniform - E[yᵀy] of y = [keys before RoPE ; values].
 * @param c - Its attention.
 * @param ropeDim - d_r, which divides the width of a head.
 * @param fold - F, a multiple of `d / d_r` that divides `d / 2`.
 * @param options - The kernels.
 */
export function rotateKeys(
  uniform: Matrix,
  { kvHeads: g, headDim: d }: GroupedAttention,
  ropeDim: number,
  fold: number,
  options: LinalgOptions = {},
): RotatedKeys {
  const [pairs, slots] = [d / 2, ropeDim / 2];
  const collapse = d / ropeDim;
  const kept = fold / collapse;
  const read = matrix(ropeDim, g * d);
  const rest = matrix(g * d - ropeDim, g * d);
  const energies: Float64Array[] = [];
  const at: number[] = [];
  let next = 0; // of the rows of `rest`
  for (let group = 0; group < pairs / fold; group++) {
    // The real parts of the group's keys, head by head; the imaginary parts lie d / 2 behind.
    const columns = Array.from(
      { length: g * fold },
      (_, i) => Math.floor(i / fold) * d + group * fold + (i % fold),
    );
    const { values, vectors } = eigh(stackedCovariance(uniform, columns, pairs), options);
    energies.push(values);
    for (let component = 0; component < columns.length; component++) {
      const slot = group * kept + component;
      const isKept = component < kept;
      if (isKept) at.push(collapse * slot);
      const rows = isKept ? [slot, slots + slot] : [next++, next++];
      const into = isKept ? read : rest;
      for (const [i, column] of columns.entries()) {
        const value = vectors.data[i * vectors.cols + component]!;
        into.data[rows[0]! * into.cols + column] = value;
        into.data[rows[1]! * into.cols + column + pairs] = value;
      }
    }
  }
  return { slots: { read, rebuild: transpose(read), pairs: at, energies }, rest };
}

/** `E[x xᵀ + y yᵀ]` of components x, the given columns, and y, those `pairs` behind them. */
function stackedCovariance(
  { cols, data }: Matrix,
  columns: readonly number[],
  pairs: number,
): Matrix {
  const covariance = matrix(columns.length, columns.length);
  for (const [i, a] of columns.entries()) {
    for (const [j, b] of columns.entries()) {
      covariance.data[i * columns.length + j] =
        data[a * cols + b]! + data[(a + pairs) * cols + b + pairs]!;
    }
  }
  return covariance;
}
