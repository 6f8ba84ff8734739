import { sizeOf, type AttentionAttributes } from "@transmla/core";

import type { Gpu, GpuKernel, GpuOperand } from "../../gpu.ts";
import type { AnyShader } from "../../shader.ts";
import { attentionShader, combineShader, KEYS } from "./shaders.ts";

/** Workgroups that keep a GPU busy; with fewer rows than that the keys are shared out. */
const ENOUGH_WORKGROUPS = 128;
/** Fewer keys than this are not worth a workgroup of their own. */
const KEYS_OF_A_SPLIT = 256;

/** The most groups of lanes of a result that one invocation keeps. */
const MOST_COLUMNS = 4;

/**
 * Attention in one pass over the keys. Declines where the values are too wide or the two caches differ in dtype, and
 * where invocations do not share memory: there core composes it.
 */
export const attention: GpuKernel<AttentionAttributes> = (gpu, out, [q, k, v], attributes) => {
  if (!gpu.capabilities.cooperative) return false;
  const lanes = lanesOf([q!, k!, v!]);
  const plan = describe(gpu, out, [q!, k!, v!], lanes, attributes);
  const needed = Math.ceil(plan.values.value_width / KEYS);
  if (needed > MOST_COLUMNS || k!.dtype !== v!.dtype) return false;
  const { rows, values, tiles } = plan;
  const { splits } = values;
  const options = {
    q: q!.dtype,
    cache: k!.dtype,
    lanes,
    rows,
    columns: needed === 1 ? 1 : needed === 2 ? 2 : 4,
    partial: splits > 1,
    subgroups: gpu.capabilities.subgroups,
  } as const;
  const buffers = { q: q!, k: k!, v: v! };
  if (splits === 1) {
    gpu.run(attentionShader, options, { out, ...buffers }, values, tiles);
    return undefined;
  }
  const value_width = values.value_width * lanes;
  gpu.withScratch(4 * tiles * splits * rows * (value_width + 2), (parts) => {
    gpu.run(attentionShader, options, { out: parts, ...buffers }, values, tiles * splits);
    const { row_tiles, per_group, heads } = values;
    const size = sizeOf(out.shape);
    const joined = { size, row_tiles, per_group, heads, splits, value_width };
    gpu.run(combineShader, { out: out.dtype, rows }, { out, parts }, joined, Math.ceil(size / 64));
  });
  return undefined;
};

/** How many elements can be loaded at once: the stride of an axis of size 1 means nothing. */
function lanesOf(operands: readonly GpuOperand[]): 1 | 4 {
  const aligned = operands.every(({ shape, strides, offset }) => {
    const steps = strides.slice(0, 2).filter((_, axis) => shape[axis] !== 1);
    return [offset, shape[2]!, ...steps].every((x) => x % 4 === 0);
  });
  return aligned ? 4 : 1;
}

function describe(
  gpu: Gpu,
  out: GpuOperand,
  [q, k, v]: readonly [GpuOperand, GpuOperand, GpuOperand],
  lanes: number,
  { scale, causal, window, cap }: AttentionAttributes,
) {
  const [T, H, Dv] = out.shape as [number, number, number];
  const [S, G, Dk] = k.shape as [number, number, number];
  const perGroup = H / G;
  const rows: 1 | 4 = T * perGroup === 1 ? 1 : 4;
  const row_tiles = Math.ceil((T * perGroup) / rows);
  const tiles = G * row_tiles;
  const most = gpu.capabilities.cooperative ? Math.ceil(ENOUGH_WORKGROUPS / tiles) : 1;
  const seen = Math.min(window ?? S, S);
  const splits = Math.max(1, Math.min(most, Math.floor(seen / KEYS_OF_A_SPLIT)));
  const values = {
    rows: T * perGroup,
    row_tiles,
    per_group: perGroup,
    heads: H,
    keys: S,
    first_position: S - T,
    splits,
    key_width: Dk / lanes,
    value_width: Dv / lanes,
    causal: Number(causal),
    window: window ?? 0xffffffff,
    ...stepsOf("q", q),
    ...stepsOf("k", k),
    ...stepsOf("v", v),
    scale,
    cap: cap ?? 0,
  };
  return { rows, tiles, values };
}

/** The parameters of a view `[tokens, heads, width]`. */
function stepsOf<N extends "q" | "k" | "v">(name: N, { strides, offset }: GpuOperand) {
  const steps = {
    [`${name}_token`]: strides[0]!,
    [`${name}_head`]: strides[1]!,
    [`${name}_offset`]: offset,
  };
  return steps as Record<`${N}_token` | `${N}_head` | `${N}_offset`, number>;
}

export const shaders: readonly AnyShader[] = [attentionShader, combineShader];
