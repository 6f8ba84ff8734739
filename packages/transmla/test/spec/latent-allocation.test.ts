// Ranks of several layers that share a cache.
import { fc } from "@fast-check/vitest";
import { expect } from "vitest";

import { allocateRanks } from "../../src/convert/latent/projected/allocate-ranks.ts";
import { counterexample, property } from "./property.ts";

const LAYERS = 3;
const COMPONENTS = 5;
const BUDGET = 7;

const spectra = (): fc.Arbitrary<number[][]> => {
  const spectrum = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), {
    minLength: COMPONENTS,
    maxLength: COMPONENTS,
  });
  const sorted = spectrum.map((values) => values.toSorted((a, b) => b - a));
  return fc.array(sorted, { minLength: LAYERS, maxLength: LAYERS });
};

const gained = (gains: readonly (readonly number[])[], ranks: readonly number[]): number =>
  gains.reduce(
    (sum, layer, l) => sum + layer.slice(0, ranks[l]).reduce((all, gain) => all + gain, 0),
    0,
  );

/** The most that any ranks of this sum gain. */
function bestOfAll(gains: readonly (readonly number[])[], total: number, least: number): number {
  let best = -Infinity;
  for (let a = least; a <= COMPONENTS; a++) {
    for (let b = least; b <= COMPONENTS; b++) {
      const c = total - a - b;
      if (c >= least && c <= COMPONENTS) best = Math.max(best, gained(gains, [a, b, c]));
    }
  }
  return best;
}

property(
  {
    id: "P35",
    statement:
      "ranks that are given one by one to the layer that gains most are the best of all ranks of that sum",
    tolerance: "f64 1e-12, against all integer allocations",
  },
  [spectra(), fc.integer({ min: 0, max: 1 })],
  (gains, least) => {
    const ranks = allocateRanks(gains, BUDGET, least);
    expect(ranks.reduce((sum, rank) => sum + rank, 0)).toBe(BUDGET);
    expect(gained(gains, ranks)).toBeCloseTo(bestOfAll(gains, BUDGET, least), 12);
  },
);

counterexample(
  {
    id: "P35",
    statement: "gains that ascend hide behind small ones from a choice one by one",
    tolerance: "0.5 less than the best",
  },
  [fc.double({ min: 0.1, max: 0.4, noNaN: true })],
  (first) => {
    const gains = [
      [first, 1, 1, 1, 1],
      [0.5, 0.5, 0.5, 0.5, 0.5],
      [0.5, 0.5, 0.5, 0.5, 0.5],
    ];
    const found = gained(gains, allocateRanks(gains, BUDGET));
    expect(found).toBeLessThan(bestOfAll(gains, BUDGET, 0) - 0.5);
  },
);
