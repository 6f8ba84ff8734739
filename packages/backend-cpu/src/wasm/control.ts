import { unsigned } from "./encoding.ts";
import { type I32, type Statement } from "./expression.ts";
import { i32 } from "./scalar.ts";

// Blocks are nested; a branch names the block it leaves, or the loop it repeats, by how many lie between.

const NO_RESULT = 0x40;
const END = 0x0b;

const codes = (body: readonly Statement[]): Statement["code"] => body.map(({ code }) => code);

/**
 * Statements that a branch leaves.
 *
 * @param body - The statements.
 */
export function block(...body: readonly Statement[]): Statement {
  return { type: "none", code: [0x02, NO_RESULT, codes(body), END] };
}

/**
 * Statements that a branch repeats. Without one they run once.
 *
 * @param body - The statements.
 */
export function loop(...body: readonly Statement[]): Statement {
  return { type: "none", code: [0x03, NO_RESULT, codes(body), END] };
}

/**
 * Goes to the end of a block, or to the start of a loop, where a condition is not 0.
 *
 * @param depth - Which: 0 is the innermost.
 * @param condition - The condition.
 */
export function branchIf(depth: number, condition: I32): Statement {
  return { type: "none", code: [condition.code, 0x0d, unsigned(depth)] };
}

/**
 * One of two lists of statements.
 *
 * @param condition - Chooses the first where it is not 0.
 * @param then - The first.
 * @param otherwise - The second.
 */
export function when(
  condition: I32,
  then: readonly Statement[],
  otherwise: readonly Statement[] = [],
): Statement {
  const second = otherwise.length > 0 ? [0x05, codes(otherwise)] : [];
  return { type: "none", code: [condition.code, 0x04, NO_RESULT, codes(then), second, END] };
}

/**
 * Statements that run once and again while a condition is not 0.
 *
 * @param condition - Tested after each run.
 * @param body - The statements.
 */
export function repeat(condition: I32, ...body: readonly Statement[]): Statement {
  return loop(...body, branchIf(0, condition));
}

/**
 * Statements that run until a position is at an end, perhaps never. They compare for equality, so that an end at 4 GiB
 * may wrap around to 0: the position has to meet it exactly.
 *
 * @param position - What the statements advance.
 * @param end - Where they stop.
 * @param body - The statements.
 */
export function until(position: I32, end: I32, ...body: readonly Statement[]): Statement {
  const unfinished = i32.ne(position, end);
  return when(unfinished, [repeat(unfinished, ...body)]);
}
