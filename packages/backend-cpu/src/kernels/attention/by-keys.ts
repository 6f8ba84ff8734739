import { MOST_HEADS, takeFewRowSteps, takeManyRowSteps } from "../../products/heads.ts";
import { part, type Matrix } from "../../products/matrix.ts";
import type { Kernels } from "../../simd/kernels.ts";
import { exp } from "../functions.ts";
import {
  capScores,
  dense,
  headMatrix,
  headOf,
  rowsOfHead,
  scaleQueries,
  seenBy,
  seenByAll,
  split,
  type Plan,
} from "./plan.ts";

/** Keys of a block. */
const KEYS = 512;

/** What the rows of all groups gather from one block of keys, block after block. */
interface Gathered {
  /** Keys of a block. */
  readonly block: number;
  /** How many blocks. */
  readonly blocks: number;
  /** `[blocks, rows, Dv]`: sums of values, weighted by the exponentials. */
  readonly mixed: number;
  /** `[blocks, rows]`: the largest scores. */
  readonly maxima: number;
  /** `[blocks, rows]`: the sums of the exponentials. */
  readonly sums: number;
}

/**
 * Attention of few rows, or of one token. The rows pass each block of keys apart from the other blocks, and what they
 * gather from each is put together in the end (Dao et al. 2023, "Flash-Decoding"). Threads share the blocks. Within a
 * block all groups have their turn, so that memory is read in order: the keys of one position follow one another.
 *
 * @param plan - The attention.
 * @param kernels - The kernels.
 * @param divisor - Where one divided by the scale lies.
 */
export function attendByKeys(plan: Plan, kernels: Kernels, divisor: number): void {
  const { memory, keys, values, tokens, groups, perGroup } = plan;
  const all = { group: 0, first: 0, tokens };
  const [Dk, Dv] = [plan.queries.width, plan.results.width];
  const [first, last] = seenByAll(plan, all);
  const rowsOfGroup = tokens * perGroup;
  const rows = groups * rowsOfGroup;
  const block = Math.min(last - first, KEYS);
  const blocks = Math.ceil((last - first) / block);
  const queries = memory.scratch(rows * Dk);
  const scores = memory.scratch(kernels.threads * rowsOfGroup * block);
  const gathered = {
    block,
    blocks,
    mixed: memory.scratch(blocks * rows * Dv),
    maxima: memory.scratch(blocks * rows),
    sums: memory.scratch(blocks * rows),
  };
  const weights = memory.scratch(blocks * rows);
  const takeSteps = rowsOfGroup <= MOST_HEADS ? takeFewRowSteps : takeManyRowSteps;
  const steps = takeSteps(memory, kernels, {
    rows: rowsOfGroup,
    keys: { dtype: keys.dtype, rows: block, columns: Dk },
    values: { dtype: values.dtype, rows: block, columns: Dv },
  });
  const ofGroup = (at: number, group: number, columns: number): Matrix => {
    return dense(at + group * rowsOfGroup * columns, rowsOfGroup, columns);
  };
  for (let group = 0; group < groups; group++) {
    const to = ofGroup(queries, group, Dk);
    scaleQueries(plan, steps(kernels.call, 0), { ...all, group }, to, divisor);
  }
  memory.f32.fill(0, gathered.mixed, gathered.mixed + blocks * rows * Dv);
  const visible = seenBy(plan, 0);
  split(plan, blocks, (call, begin, end, thread) => {
    const own = steps(call, thread);
    for (let index = begin; index < end; index++) {
      const start = first + index * block;
      const width = Math.min(block, last - start);
      const seen = dense(scores + thread * rowsOfGroup * block, rowsOfGroup, width);
      for (let group = 0; group < groups; group++) {
        const mixed = ofGroup(gathered.mixed + index * rows * Dv, group, Dv);
        const row = index * rows + group * rowsOfGroup;
        own.score(
          ofGroup(queries, group, Dk),
          part(headOf(keys, group), start, width, 0, Dk),
          seen,
        );
        capScores(plan, seen);
        own.attend({
          scores: seen,
          perToken: perGroup,
          begin: visible.begin - start,
          end: visible.end - start,
          maxima: gathered.maxima + row,
          sums: gathered.sums + row,
          mixed,
          first: true,
        });
        own.mix(seen, part(headOf(values, group), start, width, 0, Dv), mixed, true);
      }
    }
  });
  weighBlocks(plan, gathered, weights, rows);
  for (let group = 0; group < groups; group++) {
    for (let head = 0; head < perGroup; head++) {
      const to = headMatrix(plan, plan.results, { ...all, group }, head);
      const from = rowsOfHead(plan, ofGroup(gathered.mixed, group, Dv), head);
      const weight = weights + (group * rowsOfGroup + head) * blocks;
      putTogether(plan, kernels, { from, to, weight, blocks, rows });
    }
  }
}

/** `[rows, blocks]`: what each block counts for in each row. */
function weighBlocks(
  { memory: { f32 } }: Plan,
  { blocks, maxima, sums }: Gathered,
  weights: number,
  rows: number,
): void {
  for (let row = 0; row < rows; row++) {
    let max = Number.NEGATIVE_INFINITY;
    for (let i = 0; i < blocks; i++) max = Math.max(max, f32[maxima + i * rows + row]!);
    let total = 0;
    for (let i = 0; i < blocks; i++) {
      const weight = exp(f32[maxima + i * rows + row]! - max);
      f32[weights + row * blocks + i] = weight;
      total += weight * f32[sums + i * rows + row]!;
    }
    for (let i = 0; i < blocks; i++) f32[weights + row * blocks + i]! /= total;
  }
}

/** One head: the rows `from` of the first block, and those of the blocks behind it. */
function putTogether(
  { memory: { f32 }, perGroup }: Plan,
  kernels: Kernels,
  {
    from,
    to,
    weight,
    blocks,
    rows,
  }: {
    readonly from: Matrix;
    readonly to: Matrix;
    readonly weight: number;
    readonly blocks: number;
    readonly rows: number;
  },
): void {
  const width = from.columns;
  for (let token = 0; token < from.rows; token++) {
    const target = to.at + token * to.rowStep;
    f32.fill(0, target, target + width);
    const source = from.at + token * from.rowStep;
    const factors = weight + token * perGroup * blocks;
    kernels.call(
      "mix",
      4 * factors,
      0,
      4 * source,
      4 * rows * width,
      4 * target,
      0,
      1,
      blocks,
      width,
    );
  }
}
