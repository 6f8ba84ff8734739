import { eighHermitian, matrix, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

import type { GroupedAttention } from "../../../model/config/model-config.ts";
import { range } from "../../host-tensor.ts";
import { complexZeros, setComplexBlock, type ComplexVector } from "../algebra/complex-pairs.ts";
import type { Moments } from "./moments.ts";

// The part of the keys that keeps its rotary embedding: complex components of the keys of all kv heads at one frequency
// each, which commute with the rotation. Everything else goes to the latent.

/** Keeps the weights of a silent head's queries away from zero. */
const POWER_FLOOR = 1e-9;

/** The rotated key that all heads share: d_r / 2 slots, each at the frequency of a RoPE pair of the heads. */
export interface Slots {
  /** `[d_r, g d]`: the slots of the keys of all kv heads, half-split. */
  readonly read: Matrix;
  /** `[g d, d_r]`: the part of the keys that the slots hold; transposed, it takes a group's queries to the slots. */
  readonly rebuild: Matrix;
  /** For each slot its RoPE pair: which of the d / 2 frequencies it rotates at. */
  readonly pairs: readonly number[];
  /** For each frequency, or group of frequencies, the energies of its components, descending. */
  readonly energies: readonly Float64Array[];
}

/** Which components of the keys get a slot. */
export interface SlotChoice {
  /** d_r, even: twice the number of slots. */
  readonly ropeDim: number;
  /**
   * The strongest components of the fastest frequencies, of as many that are spread evenly over all, or the components
   * that lose most without rotation.
   */
  readonly choice: "fast band" | "even band" | "free";
  /** How many components each frequency of a band has: 1. */
  readonly components?: number | undefined;
  /** Whether components mix heads by complex numbers, which turn the phases of pairs, or by real ones: complex. */
  readonly field?: "complex" | "real" | undefined;
}

/**
 * Which of the d / 2 frequencies each slot of a band rotates at.
 *
 * @param band - The band.
 * @param headDim - d.
 */
export function bandPairs(
  { ropeDim, choice, components = 1 }: SlotChoice,
  headDim: number,
): number[] {
  const step = choice === "even band" ? (components * headDim) / ropeDim : 1;
  return range(0, ropeDim / 2).map((slot) => Math.floor(slot / components) * step);
}

/**
 * Chooses complex components of the keys of all kv heads at one frequency each, weighted by the power of the queries that
 * read them.
 *
 * @param moments - Of the layer.
 * @param c - Its attention.
 * @param choice - How many, and which.
 * @param options - The kernels.
 */
export function chooseSlots(
  moments: Moments,
  c: GroupedAttention,
  choice: SlotChoice,
  options: LinalgOptions = {},
): Slots {
  const { kvHeads: g, headDim: d } = c;
  const { ropeDim, components = 1, field } = choice;
  const [pairs, slots] = [d / 2, ropeDim / 2];
  const spectra = Array.from({ length: pairs }, (_, l) => {
    const roots = queryRoots(moments, c, l);
    const { re, im } = keyCovariance(moments.uniform, c, l, roots);
    return { roots, ...eighHermitian(re, field === "real" ? matrix(g, g) : im, options) };
  });
  const energies = spectra.map(({ values }) => values);
  const chosen =
    choice.choice === "free"
      ? mostNeeded(energies, moments.meanRotation, slots)
      : bandPairs(choice, d).map((l, slot) => ({ l, rank: slot % components }));
  const read = matrix(ropeDim, g * d);
  const rebuild = matrix(g * d, ropeDim);
  for (const [index, { l, rank }] of chosen.entries()) {
    const { vectors, roots } = spectra[l]!;
    const u = column(vectors, rank);
    for (let j = 0; j < g; j++) {
      const key = [j * d + l, j * d + pairs + l] as const;
      const slot = [index, slots + index] as const;
      const root = roots[j]!;
      setComplexBlock(read, slot, key, u.re[j]! * root, -u.im[j]! * root);
      setComplexBlock(rebuild, key, slot, u.re[j]! / root, u.im[j]! / root);
    }
  }
  return { pairs: chosen.map(({ l }) => l), read, rebuild, energies };
}

/**
 * The components with the most energy that a constant cannot stand in for: `1 - |E e^{i (t - n) theta}|²` of it under the
 * attention. In the order of frequencies.
 */
function mostNeeded(
  energies: readonly Float64Array[],
  { re, im }: ComplexVector,
  slots: number,
): { readonly l: number; readonly rank: number }[] {
  return energies
    .flatMap((values, l) => {
      const benefit = 1 - re[l]! ** 2 - im[l]! ** 2;
      return Array.from(values, (value, rank) => ({ l, rank, lost: value * benefit }));
    })
    .toSorted((a, b) => b.lost - a.lost)
    .slice(0, slots)
    .toSorted((a, b) => a.l - b.l || a.rank - b.rank);
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

function column(
  { re, im }: { readonly re: Matrix; readonly im: Matrix },
  index: number,
): ComplexVector {
  const result = complexZeros(re.rows);
  for (let i = 0; i < re.rows; i++) {
    result.re[i] = re.data[i * re.cols + index]!;
    result.im[i] = im.data[i * im.cols + index]!;
  }
  return result;
}
