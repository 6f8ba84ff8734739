import type { AttentionAttributes } from "@transmla/core";

import { asFloats, narrow } from "../convert.ts";
import { baseOf, isHalf, startOf, type CpuKernel, type CpuOperand } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import { headMix, headScores, MOST_HEADS, takeReader } from "../products/heads.ts";
import { part, transposed, type StoredMatrix } from "../products/matrix.ts";
import { takeProduct, type Product } from "../products/product.ts";
import { exp } from "./functions.ts";
import { rowFunctions, type RowFunctions } from "./rows.ts";

// T new tokens, S tokens in all, H query heads, G key heads.

/** Query rows that are worked on together: their scores and sums stay in the second-level cache. */
const ROWS = 128;
/** Keys of one block. Few rows take longer blocks: there the overhead of a block weighs more than masked scores. */
const KEYS = 64;
const KEYS_FOR_FEW_ROWS = 512;

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
  /** Their place among the rows that scratch holds. */
  readonly at: number;
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
  const block = Math.min(S, most <= MOST_HEADS ? KEYS_FOR_FEW_ROWS : KEYS);
  const [Dk, Dv] = [k!.shape[2]!, v!.shape[2]!];
  const few = most <= MOST_HEADS ? memory.simd : null;
  const scratch = takeScratch(memory, { held: few ? T * H : most, most, block, Dk, Dv });
  const floats = (columns: number) => ({ dtype: "f32", rows: most, columns }) as const;
  const keyBlock = { dtype: k!.dtype, rows: Dk, columns: block };
  const valueBlock = { dtype: v!.dtype, rows: block, columns: Dv };
  const read = takeReader(memory, keyBlock, valueBlock);
  const score = few ? headScores(few, read) : takeProduct(memory, floats(Dk), keyBlock);
  const mix = few ? headMix(few, read) : takeProduct(memory, floats(block), valueBlock);
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
  for (const together of batches(T * perGroup, G, few !== null)) {
    for (const rows of together) startRows(plan, rows, q!, Dv);
    attendRows(plan, together, k!, v!);
    for (const rows of together) writeResults(plan, rows, out);
  }
};

/**
 * Which rows are worked on together. Few rows of all groups are, so that memory is read in order: the keys of one position
 * follow one another. Of many, it is the rows of one group that fit the cache.
 */
function* batches(rowsOfGroup: number, groups: number, few: boolean): Generator<Rows[]> {
  if (few) {
    yield Array.from({ length: groups }, (_, group) => {
      return { group, first: 0, count: rowsOfGroup, at: group * rowsOfGroup };
    });
    return;
  }
  for (let group = 0; group < groups; group++) {
    for (let first = 0; first < rowsOfGroup; first += ROWS) {
      yield [{ group, first, count: Math.min(ROWS, rowsOfGroup - first), at: 0 }];
    }
  }
}

function takeScratch(
  memory: Memory,
  { held, most, block, Dk, Dv }: Readonly<Record<"held" | "most" | "block" | "Dk" | "Dv", number>>,
): Scratch {
  return {
    queries: memory.scratch(held * Dk),
    scores: memory.scratch(most * block),
    mixed: memory.scratch(held * Dv),
    maxima: memory.scratch(held),
    sums: memory.scratch(held),
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

/** Reads queries, and forgets what scratch holds of other rows. */
function startRows(
  { memory, attributes, perGroup, scratch }: Plan,
  rows: Rows,
  q: CpuOperand,
  valueWidth: number,
): void {
  const { f32 } = memory;
  const width = q.shape[2]!;
  for (let row = 0; row < rows.count; row++) {
    const to = scratch.queries + (rows.at + row) * width;
    const from = asFloats(memory, q.dtype, rowOf(q, rows, row, perGroup), width, to);
    for (let i = 0; i < width; i++) f32[to + i] = f32[from + i]! * attributes.scale;
  }
  const clear = (at: number, columns: number, value: number): void => {
    f32.fill(value, at + rows.at * columns, at + (rows.at + rows.count) * columns);
  };
  clear(scratch.mixed, valueWidth, 0);
  clear(scratch.maxima, 1, Number.NEGATIVE_INFINITY);
  clear(scratch.sums, 1, 0);
}

/** Runs blocks of keys past rows of several groups, which stand for the same tokens. */
function attendRows(plan: Plan, together: readonly Rows[], k: CpuOperand, v: CpuOperand): void {
  const { block } = plan;
  const { first, count } = together[0]!;
  const S = k.shape[0]!;
  const heads = together.map(({ group }) => [headOf(k, group), headOf(v, group)] as const);
  const begin = visibleKeys(plan, first, S)[0];
  const end = visibleKeys(plan, first + count - 1, S)[1];
  for (let start = begin; start < end; start += block) {
    const length = Math.min(block, end - start);
    const blockOf = (x: StoredMatrix): StoredMatrix => part(x, start, length, 0, x.columns);
    together.forEach((rows, i) => {
      const [keys, values] = heads[i]!;
      attendBlock(plan, rows, blockOf(keys), blockOf(values), start);
    });
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
  const denseRows = (start: number, first: number, columns: number): StoredMatrix => {
    const at = start + first * columns;
    return { dtype: "f32", at, rows: count, columns, rowStep: columns, columnStep: 1 };
  };
  const scores = denseRows(scratch.scores, low, width);
  plan.score(
    denseRows(scratch.queries, rows.at + low, keys.columns),
    transposed(keys),
    scores,
    false,
  );
  for (let row = low; row < high; row++) {
    const [begin, end] = visibleKeys(plan, rows.first + row, start + width);
    const visible = [Math.max(begin - start, 0), Math.min(end - start, width)] as const;
    weighRow(plan, row, rows.at, visible, width, values.columns);
  }
  plan.mix(scores, values, denseRows(scratch.mixed, rows.at + low, values.columns), true);
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
  firstHeld: number,
  [begin, end]: readonly [number, number],
  width: number,
  valueWidth: number,
): void {
  const at = scratch.scores + row * width;
  const held = firstHeld + row;
  const count = Math.max(end - begin, 0);
  if (cap !== undefined) {
    for (let i = at + begin; i < at + end; i++) f32[i] = cap * Math.tanh(f32[i]! / cap);
  }
  const before = f32[scratch.maxima + held]!;
  const max = Math.max(before, functions.largest(at + begin, count));
  if (max === Number.NEGATIVE_INFINITY) {
    f32.fill(0, at, at + width);
    return;
  }
  f32.fill(0, at, at + begin);
  f32.fill(0, at + end, at + width);
  const sum = functions.exponentials(at + begin, at + begin, count, max);
  const factor = exp(before - max);
  f32[scratch.maxima + held] = max;
  f32[scratch.sums + held] = f32[scratch.sums + held]! * factor + sum;
  if (factor !== 1) functions.scale(scratch.mixed + held * valueWidth, valueWidth, factor);
}

function writeResults({ memory, perGroup, scratch }: Plan, rows: Rows, out: CpuOperand): void {
  const { f32 } = memory;
  const width = out.shape[2]!;
  for (let row = 0; row < rows.count; row++) {
    const from = scratch.mixed + (rows.at + row) * width;
    const target = rowOf(out, rows, row, perGroup);
    const to = isHalf(out.dtype) ? from : target;
    const factor = 1 / f32[scratch.sums + rows.at + row]!;
    for (let i = 0; i < width; i++) f32[to + i] = f32[from + i]! * factor;
    if (isHalf(out.dtype)) {
      narrow(memory, out.dtype, { at: from, step: 1 }, { at: target, step: 1 }, width);
    }
  }
}
