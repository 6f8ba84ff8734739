import { ArgumentError, fail } from "@transmla/core";

/**
 * Divides a sum of ranks among layers so that the sum of what they lack is least: each unit goes where it gains most.
 * That is the optimum, because the gains of a layer descend (a separable convex problem).
 *
 * @param gains - For each layer what its first, second, third component is worth, in one unit, descending.
 * @param total - The sum of the ranks.
 * @param least - The rank that each layer has at least; 0 when absent.
 * @returns The rank of each layer.
 * @throws ArgumentError when the layers have no room for the sum, or it does not give all of them the least.
 *
 * @example
 * ```ts ignore
 * allocateRanks([[9, 4, 1], [5, 3, 2]], 3); // [2, 1]: 9 + 5 + 4
 * ```
 */
export function allocateRanks(
  gains: readonly ArrayLike<number>[],
  total: number,
  least = 0,
): number[] {
  const room = gains.reduce((sum, { length }) => sum + length, 0);
  if (total < least * gains.length || total > room) {
    const problem = `a sum of ${total} must be from ${least * gains.length} to ${room} for ${gains.length} layers`;
    fail(ArgumentError, "allocate ranks", problem);
  }
  const ranks = gains.map(() => least);
  const next = (layer: number): number => gains[layer]![ranks[layer]!] ?? -Infinity;
  for (let left = total - least * gains.length; left > 0; left--) {
    let best = 0;
    for (let layer = 1; layer < gains.length; layer++) {
      if (next(layer) > next(best)) best = layer;
    }
    ranks[best]!++;
  }
  return ranks;
}
