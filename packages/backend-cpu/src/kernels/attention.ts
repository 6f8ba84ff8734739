import type { AttentionAttributes } from "@transmla/core";

import { asFloats, narrow } from "../convert.ts";
import { baseOf, isHalf, startOf, type CpuKernel, type CpuOperand } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import { part, transposed, type StoredMatrix } from "../products/matrix.ts";
import { takeProduct, type Product } from "../products/product.ts";
import { exp } from "./functions.ts";
import { rowFunctions, type RowFunctions } from "./rows.ts";

// T new tokens, S tokens in all, H query heads, G key heads.

/** Query rows that are worked on together: their scores and sums stay in the second-level cache. */
const ROWS = 128;
/** Keys of one block. Few rows take longer blocks: there the overhead of a block weighs more than masked scores. */
const KEYS = 64;
const KEYS_FOR_FEW_ROWS = 256;
const FEW_ROWS = 8;

/** What the blocks of one attention share. */
interface Plan {
  readonly memory: Memory;
  readonly attributes: AttentionAttributes;
  /** Query heads for each key head. */
  readonly perGroup: number;
  /** The position of the first query: S - T. */
  readonly firstPosition: number;
  /** Keys of one block. */
  readonly block: number;
  readonly scratch: Scratch;
  readonly functions: RowFunctions;
  /** Queries times keys. */
  readonly score: Product;
  /** Weights times values. */
  readonly mix: Product;
}

/** Indices into f32. */
interface Scratch {
  /** `[rows, Dk]`, times the scale. */
  readonly queries: number;
  /** `[rows, block]`: scores, then their exponentials. */
  readonly scores: number;
  /** `[rows, Dv]`: sums of values, weighted by the exponentials. */
  readonly mixed: number;
  /** `[rows]`: the largest score so far. */
  readonly maxima: number;
  /** `[rows]`: the sum of the exponentials so far. */
  readonly sums: number;
}

/**
 * Query rows of one group that are worked on together. Row r of a group is query head `r % perGroup` of the group at
 * token `floor(r / perGroup)`.
 */
interface Rows {
  readonly group: number;
  readonly first: number;
  readonly count: number;
}

/**
 * Attention by blocks of keys with a running maximum and sum for each query (Milakov & Gimelshein 2018; Rabe & Staats
 * 2021): there is no matrix of all scores. The heads of a group are rows of one product with its keys, so that a block
 * of keys is read once for all of them.
 */
export const attention: CpuKernel<AttentionAttributes> = (memory, out, [q, k, v], attributes) => {
  const [T, H] = out.shape as [number, number, number];
  const [S, G] = k!.shape as [number, number, number];
  const perGroup = H / G;
  const most = Math.min(T * perGroup, ROWS);
  const block = Math.min(S, most <= FEW_ROWS ? KEYS_FOR_FEW_ROWS : KEYS);
  const [Dk, Dv] = [k!.shape[2]!, v!.shape[2]!];
  const scratch = takeScratch(memory, most, block, Dk, Dv);
  const floats = (columns: number) => ({ dtype: "f32", rows: most, columns }) as const;
  const score = takeProduct(memory, floats(Dk), { dtype: k!.dtype, rows: Dk, columns: block });
  const mix = takeProduct(memory, floats(block), { dtype: v!.dtype, rows: block, columns: Dv });
  const functions = rowFunctions(memory);
  const firstPosition = S - T;
  const plan = {
    memory,
    attributes,
    perGroup,
    firstPosition,
    block,
    scratch,
    functions,
    score,
    mix,
  };
  for (let group = 0; group < G; group++) {
    const keys = headOf(k!, group);
    const values = headOf(v!, group);
    for (let first = 0; first < T * perGroup; first += ROWS) {
      const rows = { group, first, count: Math.min(ROWS, T * perGroup - first) };
      readQueries(plan, rows, q!);
      attendRows(plan, rows, keys, values);
      writeResults(plan, rows, out);
    }
  }
};

function takeScratch(
  memory: Memory,
  rows: number,
  block: number,
  keyWidth: number,
  valueWidth: number,
): Scratch {
  return {
    queries: memory.scratch(rows * keyWidth),
    scores: memory.scratch(rows * block),
    mixed: memory.scratch(rows * valueWidth),
    maxima: memory.scratch(rows),
    sums: memory.scratch(rows),
  };
}

/** The keys or values `[S, D]` of one head. */
function headOf(x: CpuOperand, head: number): StoredMatrix {
  const [rows, , columns] = x.shape as [number, number, number];
  const [rowStep, headStep] = x.strides as [number, number];
  const at = startOf(x) + head * headStep;
  return { dtype: x.dtype, base: baseOf(x), at, rows, columns, rowStep, columnStep: 1 };
}

/** Where a row of queries or results lies. */
function rowOf(x: CpuOperand, { group, first }: Rows, row: number, perGroup: number): number {
  const [tokenStep, headStep] = x.strides as [number, number];
  const token = Math.floor((first + row) / perGroup);
  const head = group * perGroup + ((first + row) % perGroup);
  return startOf(x) + token * tokenStep + head * headStep;
}

function readQueries(
  { memory, attributes, perGroup, scratch }: Plan,
  rows: Rows,
  q: CpuOperand,
): void {
  const { f32 } = memory;
  const width = q.shape[2]!;
  for (let row = 0; row < rows.count; row++) {
    const to = scratch.queries + row * width;
    const from = asFloats(memory, q.dtype, rowOf(q, rows, row, perGroup), width, to);
    for (let i = 0; i < width; i++) f32[to + i] = f32[from + i]! * attributes.scale;
  }
}

function attendRows(plan: Plan, rows: Rows, keys: StoredMatrix, values: StoredMatrix): void {
  const { memory, block, scratch } = plan;
  const { f32 } = memory;
  f32.fill(0, scratch.mixed, scratch.mixed + rows.count * values.columns);
  f32.fill(Number.NEGATIVE_INFINITY, scratch.maxima, scratch.maxima + rows.count);
  f32.fill(0, scratch.sums, scratch.sums + rows.count);
  const begin = visibleKeys(plan, rows.first, keys.rows)[0];
  const end = visibleKeys(plan, rows.first + rows.count - 1, keys.rows)[1];
  for (let start = begin; start < end; start += block) {
    const count = Math.min(block, end - start);
    const blockOf = (x: StoredMatrix): StoredMatrix => part(x, start, count, 0, x.columns);
    attendBlock(plan, rows, blockOf(keys), blockOf(values), start);
  }
}

/** The first key that a row sees, and the end of those it sees. */
function visibleKeys(plan: Plan, row: number, S: number): [begin: number, end: number] {
  const { causal, window } = plan.attributes;
  const position = plan.firstPosition + Math.floor(row / plan.perGroup);
  return [window === undefined ? 0 : Math.max(0, position - window + 1), causal ? position + 1 : S];
}

/** Adds the keys and values from `start` on to what the rows have gathered. */
function attendBlock(
  plan: Plan,
  rows: Rows,
  keys: StoredMatrix,
  values: StoredMatrix,
  start: number,
): void {
  const { scratch } = plan;
  const [low, high] = seeingRows(plan, rows, start, keys.rows);
  const count = high - low;
  const width = keys.rows;
  const denseRows = (at: number, columns: number): StoredMatrix => {
    const from = at + low * columns;
    return { dtype: "f32", at: from, rows: count, columns, rowStep: columns, columnStep: 1 };
  };
  const scores = denseRows(scratch.scores, width);
  plan.score(denseRows(scratch.queries, keys.columns), transposed(keys), scores, false);
  for (let row = low; row < high; row++) {
    const [begin, end] = visibleKeys(plan, rows.first + row, start + width);
    const visible = [Math.max(begin - start, 0), Math.min(end - start, width)] as const;
    weighRow(plan, row, visible, width, values.columns);
  }
  plan.mix(scores, values, denseRows(scratch.mixed, values.columns), true);
}

/** Which rows see any of `width` keys from `start` on. */
function seeingRows(plan: Plan, rows: Rows, start: number, width: number): [number, number] {
  const { causal, window } = plan.attributes;
  const rowAt = (position: number): number => {
    const row = (position - plan.firstPosition) * plan.perGroup - rows.first;
    return Math.min(Math.max(row, 0), rows.count);
  };
  return [
    causal ? rowAt(start) : 0,
    window === undefined ? rows.count : rowAt(start + width - 1 + window),
  ];
}

/** Turns the scores of a row into exponentials under its running maximum, and 0 where it may not look. */
function weighRow(
  { memory: { f32 }, functions, attributes: { cap }, scratch }: Plan,
  row: number,
  [begin, end]: readonly [number, number],
  width: number,
  valueWidth: number,
): void {
  const at = scratch.scores + row * width;
  const count = Math.max(end - begin, 0);
  if (cap !== undefined) {
    for (let i = at + begin; i < at + end; i++) f32[i] = cap * Math.tanh(f32[i]! / cap);
  }
  const before = f32[scratch.maxima + row]!;
  const max = Math.max(before, functions.largest(at + begin, count));
  if (max === Number.NEGATIVE_INFINITY) {
    f32.fill(0, at, at + width);
    return;
  }
  f32.fill(0, at, at + begin);
  f32.fill(0, at + end, at + width);
  const sum = functions.exponentials(at + begin, at + begin, count, max);
  const factor = exp(before - max);
  f32[scratch.maxima + row] = max;
  f32[scratch.sums + row] = f32[scratch.sums + row]! * factor + sum;
  if (factor !== 1) functions.scale(scratch.mixed + row * valueWidth, valueWidth, factor);
}

function writeResults({ memory, perGroup, scratch }: Plan, rows: Rows, out: CpuOperand): void {
  const { f32 } = memory;
  const width = out.shape[2]!;
  for (let row = 0; row < rows.count; row++) {
    const from = scratch.mixed + row * width;
    const target = rowOf(out, rows, row, perGroup);
    const to = isHalf(out.dtype) ? from : target;
    const factor = 1 / f32[scratch.sums + row]!;
    for (let i = 0; i < width; i++) f32[to + i] = f32[from + i]! * factor;
    if (isHalf(out.dtype)) {
      narrow(memory, out.dtype, { at: from, step: 1 }, { at: target, step: 1 }, width);
    }
  }
}
