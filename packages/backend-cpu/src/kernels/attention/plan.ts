import type { AttentionAttributes } from "@transmla/core";

import { narrow, widen } from "../../convert.ts";
import { baseOf, isHalf, startOf, type CpuOperand } from "../../kernel.ts";
import type { Memory } from "../../memory.ts";
import type { HeadSteps } from "../../products/heads.ts";
import type { Matrix, StoredMatrix } from "../../products/matrix.ts";
import { RATE } from "../../products/shares.ts";
import type { Call, Work } from "../../simd/kernels.ts";

// T new tokens, S tokens in all, H query heads, G key heads. A row is one query head of one token; the rows of a group are
// those of the heads that share a key head, token by token.

/** One attention. */
export interface Plan {
  /** Where everything lies. */
  readonly memory: Memory;
  /** Mask and scale. */
  readonly attributes: AttentionAttributes;
  /** `[T, H, Dk]` */
  readonly queries: HeadRows;
  /** `[T, H, Dv]` */
  readonly results: HeadRows;
  /** `[S, G, Dk]` */
  readonly keys: CpuOperand;
  /** `[S, G, Dv]` */
  readonly values: CpuOperand;
  /** New tokens. */
  readonly tokens: number;
  /** The position of the first of them: S - T. */
  readonly firstPosition: number;
  /** Key heads. */
  readonly groups: number;
  /** Query heads for each key head. */
  readonly perGroup: number;
}

/** Heads of tokens in f32, the elements of a head adjacent. */
export interface HeadRows {
  /** The first element. */
  readonly at: number;
  /** From one token to the next. */
  readonly tokenStep: number;
  /** From one head to the next. */
  readonly headStep: number;
  /** Elements of a head. */
  readonly width: number;
}

/** Tokens of a group. */
export interface Batch {
  /** The group. */
  readonly group: number;
  /** The first of the new tokens. */
  readonly first: number;
  /** How many. */
  readonly tokens: number;
}

/**
 * An operand as f32: where it lies, or a place for it in scratch.
 *
 * @param memory - Where it lies.
 * @param x - Floats `[T, H, D]`.
 */
export function headRows(memory: Memory, x: CpuOperand): HeadRows {
  const [tokens, heads, width] = x.shape as [number, number, number];
  const [tokenStep, headStep] = x.strides as [number, number];
  if (!isHalf(x.dtype)) return { at: startOf(x), tokenStep, headStep, width };
  const at = memory.scratch(tokens * heads * width);
  return { at, tokenStep: heads * width, headStep: width, width };
}

/**
 * Widens 16-bit heads into their place, or rounds what lies there.
 *
 * @param memory - Where both lie.
 * @param half - The operand; nothing happens where it holds f32.
 * @param wide - Its place: {@link headRows}.
 * @param convert - What is done.
 */
export function convertHeads(
  memory: Memory,
  half: CpuOperand,
  wide: HeadRows,
  convert: "widen" | "narrow",
): void {
  const { dtype } = half;
  if (!isHalf(dtype)) return;
  const [tokens, heads, width] = half.shape as [number, number, number];
  const [tokenStep, headStep] = half.strides as [number, number];
  for (let token = 0; token < tokens; token++) {
    for (let head = 0; head < heads; head++) {
      const f32 = { at: wide.at + token * wide.tokenStep + head * wide.headStep, step: 1 };
      const bits = { at: startOf(half) + token * tokenStep + head * headStep, step: 1 };
      if (convert === "widen") widen(memory, dtype, bits, f32, width);
      else narrow(memory, dtype, f32, bits, width);
    }
  }
}

/**
 * Divides work among threads, if there are several and they can do all of it: the hyperbolic tangent of a cap is no kernel.
 *
 * @param plan - The attention.
 * @param items - How many items there are.
 * @param share - See `Kernels.split`.
 */
export function split(
  { memory, attributes, keys, values, tokens, groups, perGroup }: Plan,
  items: number,
  share: (call: Call, begin: number, end: number, thread: number) => void,
): void {
  const { simd } = memory;
  if (!simd) {
    share(() => undefined, 0, items, 0);
    return;
  }
  const width = keys.shape[2]! + values.shape[2]!;
  const work: Work = {
    items,
    multiple: attributes.cap === undefined ? 1 : items,
    nanoseconds: (tokens * groups * perGroup * keys.shape[0]! * width) / RATE,
  };
  simd.split(work, share);
}

/**
 * Rows one after the other.
 *
 * @param at - The first element.
 * @param rows - How many.
 * @param columns - Elements of each.
 */
export function dense(at: number, rows: number, columns: number): Matrix {
  return { at, rows, columns, rowStep: columns, columnStep: 1 };
}

/**
 * The keys or values `[S, D]` of one head.
 *
 * @param x - Keys or values.
 * @param head - Which head.
 */
export function headOf(x: CpuOperand, head: number): StoredMatrix {
  const [rows, , columns] = x.shape as [number, number, number];
  const [rowStep, headStep] = x.strides as [number, number];
  const at = startOf(x) + head * headStep;
  return { dtype: x.dtype, base: baseOf(x), at, rows, columns, rowStep, columnStep: 1 };
}

/**
 * One query head of the tokens of a batch, `[tokens, D]`.
 *
 * @param plan - The attention.
 * @param rows - Queries or results.
 * @param batch - The tokens.
 * @param head - Which head of the group.
 */
export function headMatrix(
  { perGroup }: Plan,
  { at, tokenStep, headStep, width }: HeadRows,
  { group, first, tokens }: Batch,
  head: number,
): Matrix {
  const start = at + first * tokenStep + (group * perGroup + head) * headStep;
  return { at: start, rows: tokens, columns: width, rowStep: tokenStep, columnStep: 1 };
}

/**
 * Every `perGroup`-th of the rows of a group: those of one head.
 *
 * @param plan - The attention.
 * @param rows - The rows of a batch.
 * @param head - Which head of the group.
 */
export function rowsOfHead({ perGroup }: Plan, rows: Matrix, head: number): Matrix {
  const { at, rowStep } = rows;
  return {
    ...rows,
    at: at + head * rowStep,
    rows: rows.rows / perGroup,
    rowStep: perGroup * rowStep,
  };
}

/**
 * Copies the queries of a batch, times the scale.
 *
 * @param plan - The attention.
 * @param steps - How.
 * @param batch - Which.
 * @param to - Where they go.
 * @param divisor - Where one divided by the scale lies.
 */
export function scaleQueries(
  plan: Plan,
  steps: HeadSteps,
  batch: Batch,
  to: Matrix,
  divisor: number,
): void {
  for (let head = 0; head < plan.perGroup; head++) {
    const from = headMatrix(plan, plan.queries, batch, head);
    steps.divide(from, rowsOfHead(plan, to, head), divisor, 0);
  }
}

/**
 * The first key that a token sees, and the end of those it sees. Counted from a later key, they may be negative.
 *
 * @param plan - The attention.
 * @param token - One of the new tokens.
 */
export function seenBy(
  plan: Plan,
  token: number,
): { readonly begin: number; readonly end: number } {
  const { causal, window } = plan.attributes;
  const position = plan.firstPosition + token;
  return {
    begin: window === undefined ? Number.NEGATIVE_INFINITY : position - window + 1,
    end: causal ? position + 1 : Number.POSITIVE_INFINITY,
  };
}

/**
 * The keys that any token of a batch sees.
 *
 * @param plan - The attention.
 * @param batch - The tokens.
 */
export function seenByAll(plan: Plan, { first, tokens }: Batch): [begin: number, end: number] {
  const { begin } = seenBy(plan, first);
  const { end } = seenBy(plan, first + tokens - 1);
  return [Math.max(begin, 0), Math.min(end, plan.keys.shape[0]!)];
}

/**
 * Caps scores, where the attention does. They are there: work with a cap is not divided.
 *
 * @param plan - The attention.
 * @param scores - The scores.
 */
export function capScores({ memory: { f32 }, attributes: { cap } }: Plan, scores: Matrix): void {
  if (cap === undefined) return;
  for (let row = 0; row < scores.rows; row++) {
    const at = scores.at + row * scores.rowStep;
    for (let i = at; i < at + scores.columns; i++) f32[i] = cap * Math.tanh(f32[i]! / cap);
  }
}
