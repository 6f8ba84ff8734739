import {
  takeManyRowSteps,
  takePlainSteps,
  type HeadSteps,
  type TakenSteps,
} from "../../products/heads.ts";
import { part, type Matrix } from "../../products/matrix.ts";
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
  type Batch,
  type Plan,
} from "./plan.ts";

/** Rows that are worked on together: their scores and sums stay in the second-level cache. */
const ROWS = 128;
/** Keys of a block. */
const KEYS = 256;

/** Where the rows of a batch lie while they are worked on. */
interface Scratch {
  /** Queries, times the scale. */
  readonly queries: Matrix;
  /** Room for scores of a block of keys. */
  readonly scores: number;
  /** Sums of values, weighted by the exponentials. */
  readonly mixed: Matrix;
  /** The largest score so far of each row. */
  readonly maxima: number;
  /** The sum of the exponentials so far of each row. */
  readonly sums: number;
}

/**
 * Attention of many rows: each batch of them runs past the keys that it sees, with a running maximum and sum of each row
 * (Milakov & Gimelshein 2018; Rabe & Staats 2021). Threads share the batches.
 *
 * @param plan - The attention.
 * @param divisor - Where one divided by the scale lies.
 */
export function attendByRows(plan: Plan, divisor: number): void {
  const { memory, keys, tokens, groups, perGroup } = plan;
  const together = Math.min(Math.max(Math.floor(ROWS / perGroup), 1), tokens);
  const block = Math.min(keys.shape[0]!, KEYS);
  const rows = together * perGroup;
  const size = rows * (plan.queries.width + block + plan.results.width + 2);
  const start = memory.scratch((memory.simd?.threads ?? 1) * size);
  const steps = takeSteps(plan, rows, block);
  const batches = Math.ceil(tokens / together) * groups;
  split(plan, batches, (call, begin, end, thread) => {
    const own = steps(call, thread);
    for (let item = begin; item < end; item++) {
      // Later tokens see more keys: long batches between short ones make shares alike.
      const index = item % 2 === 0 ? item / 2 : batches - (item + 1) / 2;
      const first = Math.floor(index / groups) * together;
      const batch = { group: index % groups, first, tokens: Math.min(together, tokens - first) };
      const scratch = scratchFor(plan, start + thread * size, batch.tokens * perGroup, block);
      scaleQueries(plan, own, batch, scratch.queries, divisor);
      attend(plan, own, batch, scratch, block);
      writeResults(plan, own, batch, scratch);
    }
  });
}

function takeSteps({ memory, keys, values }: Plan, rows: number, block: number): TakenSteps {
  const sizes = {
    rows,
    keys: { dtype: keys.dtype, rows: block, columns: keys.shape[2]! },
    values: { dtype: values.dtype, rows: block, columns: values.shape[2]! },
  };
  return memory.simd ? takeManyRowSteps(memory, memory.simd, sizes) : takePlainSteps(memory, sizes);
}

function scratchFor({ queries, results }: Plan, at: number, rows: number, block: number): Scratch {
  const mixed = at + rows * queries.width;
  const scores = mixed + rows * results.width;
  const maxima = scores + rows * block;
  return {
    queries: dense(at, rows, queries.width),
    scores,
    mixed: dense(mixed, rows, results.width),
    maxima,
    sums: maxima + rows,
  };
}

/** Runs blocks of keys past the rows of a batch. */
function attend(
  plan: Plan,
  steps: HeadSteps,
  batch: Batch,
  { queries, scores, mixed, maxima, sums }: Scratch,
  block: number,
): void {
  const { perGroup } = plan;
  const [keys, values] = [headOf(plan.keys, batch.group), headOf(plan.values, batch.group)];
  const [begin, end] = seenByAll(plan, batch);
  for (let start = begin; start < end; start += block) {
    const width = Math.min(block, end - start);
    const first = start === begin;
    // The first block is for all rows: it is where they begin to gather.
    const [low, high] = first ? [0, batch.tokens] : tokensSeeing(plan, batch, start, width);
    const seeing = (x: Matrix): Matrix =>
      part(x, low * perGroup, (high - low) * perGroup, 0, x.columns);
    const seen = seeing(dense(scores, queries.rows, width));
    if (seen.rows === 0) continue;
    const visible = seenBy(plan, batch.first + low);
    steps.score(seeing(queries), part(keys, start, width, 0, keys.columns), seen);
    capScores(plan, seen);
    steps.attend({
      scores: seen,
      perToken: perGroup,
      begin: visible.begin - start,
      end: visible.end - start,
      maxima: maxima + low * perGroup,
      sums: sums + low * perGroup,
      mixed: seeing(mixed),
      first,
    });
    steps.mix(seen, part(values, start, width, 0, values.columns), seeing(mixed), !first);
  }
}

/** Which tokens of a batch see any of `width` keys from `start` on. */
function tokensSeeing(plan: Plan, batch: Batch, start: number, width: number): [number, number] {
  const { causal, window } = plan.attributes;
  const tokenAt = (position: number): number => {
    return Math.min(Math.max(position - plan.firstPosition - batch.first, 0), batch.tokens);
  };
  return [
    causal ? tokenAt(start) : 0,
    window === undefined ? batch.tokens : tokenAt(start + width - 1 + window),
  ];
}

function writeResults(plan: Plan, steps: HeadSteps, batch: Batch, { mixed, sums }: Scratch): void {
  for (let head = 0; head < plan.perGroup; head++) {
    const to = headMatrix(plan, plan.results, batch, head);
    steps.divide(rowsOfHead(plan, mixed, head), to, sums + head, plan.perGroup);
  }
}
