import { tensor, type Backend, type Tensor } from "@transmla/core";

/**
 * Positions of the queries that represent a window in a fit: evenly spread, and offset from window to window.
 *
 * @param tokens - The length of the window.
 * @param index - Which window.
 * @param windows - How many windows share the queries.
 * @param queries - How many queries all windows have together.
 */
export function queryPositions(
  tokens: number,
  index: number,
  windows: number,
  queries: number,
): number[] {
  const count = Math.min(tokens, Math.ceil(queries / windows));
  return Array.from({ length: count }, (_, i) =>
    Math.floor(((i + (index + 0.5) / windows) * tokens) / count),
  );
}

/**
 * `[n, T]`: a large negative number where a query would look at a later key.
 *
 * @param backend - Where it lives.
 * @param positions - Of the n queries.
 * @param tokens - T.
 */
export function futureKeys(backend: Backend, positions: readonly number[], tokens: number): Tensor {
  const mask = new Float32Array(positions.length * tokens);
  for (const [i, t] of positions.entries()) mask.fill(-1e30, i * tokens + t + 1, (i + 1) * tokens);
  return tensor(backend, mask, [positions.length, tokens]);
}
