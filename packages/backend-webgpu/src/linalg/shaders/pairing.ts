import type { GpuOperand } from "../../gpu.ts";

/** Columns of a block. Two blocks meet in a workgroup. */
export const BLOCK = 16;

/** Columns of two blocks. */
export const PAIR: number = 2 * BLOCK;

/** A round of a sweep: every block of columns meets one other. */
export interface Round {
  /** `[n, 2n]`: columns, whose first halves become orthogonal. */
  readonly columns: GpuOperand;
  /** `[pairs, PAIR, PAIR]`: entry [pair, i, k] is how much of column k is added to column i. */
  readonly changes: GpuOperand;
  /** `[2, pairs]`: the largest cosine between two columns, of each pair in this round and in the sweep so far. */
  readonly cosines: GpuOperand;
  /** Which round, from 0. */
  readonly round: number;
  /** Cosines up to this are left as they are. */
  readonly tolerance: number;
  /** Columns that are shorter are left as they are. */
  readonly floor: number;
}

/**
 * WGSL: who meets whom when an even number of players all meet once, in one round less than there are players (the
 * circle method). The smaller one comes first.
 */
export const PAIRING: string = `fn meeting(players: u32, round: u32, k: u32) -> vec2u {
  let circle = players - 1u;
  let a = round + k - select(0u, circle, round + k >= circle);
  let b = select(round - k + select(0u, circle, k > round), circle, k == 0u);
  return vec2u(min(a, b), max(a, b));
}`;

/** WGSL: the k-th column of a pair of blocks. */
export const COLUMN: string = `fn column(blocks: vec2u, k: u32) -> u32 {
  return select(blocks.y * ${BLOCK}u + k - ${BLOCK}u, blocks.x * ${BLOCK}u + k, k < ${BLOCK}u);
}`;

/**
 * Lines of WGSL, one for each number from 0.
 *
 * @param count - How many.
 * @param text - The line of a number.
 */
export function each(count: number, text: (i: number) => string): string {
  return Array.from({ length: count }, (_, i) => text(i)).join("\n");
}
