import { eighHermitian, matrix, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

import type { GroupedAttention } from "../../../model/config/model-config.ts";
import { complexZeros, setComplexBlock, type ComplexVector } from "../algebra/complex-pairs.ts";
import type { Moments } from "./moments.ts";

// The part of the keys that keeps its rotary embedding: for each of the fastest frequencies one complex component of the
// keys of all kv heads, which commutes with the rotation. Everything slower goes to the latent.

/** Keeps the weights of a silent head's queries away from zero. */
const POWER_FLOOR = 1e-9;

/** The rotated key that all heads share: d_r / 2 slots, slot p at the p-th fastest frequency. */
export interface Slots {
  /** `[d_r, g d]`: the slots of the keys of all kv heads, half-split. */
  readonly read: Matrix;
  /** `[g d, d_r]`: the part of the keys that the slots hold; transposed, it takes a group's queries to the slots. */
  readonly rebuild: Matrix;
  /** For each slot, which of the d / 2 frequencies it rotates at. */
  readonly pairs: readonly number[];
  /** For each frequency, or group of frequencies, the energies of its components, descending. */
  readonly energies: readonly Float64Array[];
}

/**
 * Chooses one complex component for each of the `ropeDim / 2` fastest frequencies: the strongest of the keys of all kv
 * heads at that frequency, weighted by the power of the queries that read them.
 *
 * @param moments - Of the layer.
 * @param c - Its attention.
 * @param ropeDim - d_r, even, at most the width of a head.
 * @param options - The kernels.
 */
export function chooseSlots(
  moments: Moments,
  c: GroupedAttention,
  ropeDim: number,
  options: LinalgOptions = {},
): Slots {
  const { kvHeads: g, headDim: d } = c;
  const pairs = d / 2;
  const slots = ropeDim / 2;
  const read = matrix(ropeDim, g * d);
  const rebuild = matrix(g * d, ropeDim);
  const energies: Float64Array[] = [];
  for (let l = 0; l < pairs; l++) {
    const roots = queryRoots(moments, c, l);
    const { re, im } = keyCovariance(moments.uniform, c, l, roots);
    const { values, vectors } = eighHermitian(re, im, options);
    energies.push(values);
    if (l >= slots) continue;
    const u = firstColumn(vectors);
    for (let j = 0; j < g; j++) {
      const key = [j * d + l, j * d + pairs + l] as const;
      const slot = [l, slots + l] as const;
      const root = roots[j]!;
      setComplexBlock(read, slot, key, u.re[j]! * root, -u.im[j]! * root);
      setComplexBlock(rebuild, key, slot, u.re[j]! / root, u.im[j]! / root);
    }
  }
  return { read, rebuild, pairs: Array.from({ length: slots }, (_, p) => p), energies };
}

/** For each kv head the root of the power of its queries at one frequency. */
function queryRoots({ queries }: Moments, c: GroupedAttention, l: number): Float64Array {
  const { heads, kvHeads, headDim: d } = c;
  const power = new Float64Array(kvHeads);
  for (const [h, { data }] of queries.entries()) {
    const imaginary = l + d / 2;
    power[Math.floor(h / (heads / kvHeads))]! +=
      data[l * d + l]! + data[imaginary * d + imaginary]!;
  }
  return power.map((sum) => Math.sqrt(sum) + POWER_FLOOR);
}

/** `D E[z zᴴ] D` of the keys of all kv heads at one frequency, D = diag(roots). */
function keyCovariance(
  { cols, data }: Matrix,
  { kvHeads: g, headDim: d }: GroupedAttention,
  l: number,
  roots: Float64Array,
): { readonly re: Matrix; readonly im: Matrix } {
  const [re, im] = [matrix(g, g), matrix(g, g)];
  for (let i = 0; i < g; i++) {
    for (let j = 0; j < g; j++) {
      const weight = roots[i]! * roots[j]!;
      const moment = (a: number, b: number): number =>
        data[(i * d + a) * cols + j * d + b]! * weight;
      const [x, y] = [l, l + d / 2];
      re.data[i * g + j] = moment(x, x) + moment(y, y);
      im.data[i * g + j] = moment(y, x) - moment(x, y);
    }
  }
  return { re, im };
}

function firstColumn({ re, im }: { readonly re: Matrix; readonly im: Matrix }): ComplexVector {
  const column = complexZeros(re.rows);
  for (let i = 0; i < re.rows; i++) {
    column.re[i] = re.data[i * re.cols]!;
    column.im[i] = im.data[i * im.cols]!;
  }
  return column;
}
