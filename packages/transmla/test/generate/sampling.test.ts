import { fc, test as prop } from "@fast-check/vitest";
import { describe, expect, test } from "vitest";

import { takeLargest } from "../../src/generate/largest.ts";
import {
  createSampler,
  mostProbable,
  penalise,
  selectCandidates,
  type SamplingOptions,
} from "../../src/generate/sampling.ts";

const logitsOf = (probabilities: readonly number[]): Float32Array =>
  Float32Array.from(probabilities, Math.log);

/** Each filter on a full sorted list, one after the other, as Transformers writes them. */
function reference(logits: Float32Array, options: SamplingOptions): Map<number, number> {
  const { temperature = 1, topK = 0, topP = 1, minP = 0 } = options;
  const normalise = (list: [number, number][]): [number, number][] => {
    const sum = list.reduce((total, [, p]) => total + p, 0);
    return list.map(([id, p]) => [id, p / sum]);
  };
  const greatest = Math.max(...logits);
  let list = Array.from(logits, (x, id): [number, number] => [id, x]).toSorted(
    (a, b) => b[1] - a[1] || a[0] - b[0],
  );
  if (topK > 0) list = list.slice(0, topK);
  list = normalise(list.map(([id, x]) => [id, Math.exp((x - greatest) / temperature)]));
  if (topP < 1) {
    const before = list.map((_, i) => list.slice(0, i).reduce((sum, [, p]) => sum + p, 0));
    list = normalise(list.filter((_, i) => before.at(i)! < topP));
  }
  list = normalise(list.filter(([, p]) => p >= minP * list.at(0)![1]));
  return new Map(list);
}

const logits = fc
  .array(fc.float({ min: -12, max: 12, noNaN: true }), { minLength: 1, maxLength: 40 })
  .map((list) => Float32Array.from(list));
const filters = fc.record({
  temperature: fc.double({ min: 0.05, max: 4, noNaN: true }),
  topK: fc.option(fc.integer({ min: 0, max: 45 }), { nil: undefined }),
  // Away from the sums of few equal probabilities, where the order of additions decides.
  topP: fc.option(fc.double({ min: 0.0123, max: 0.9987, noNaN: true }), { nil: undefined }),
  minP: fc.option(fc.double({ min: 0, max: 0.9987, noNaN: true }), { nil: undefined }),
});

prop.prop([logits, filters], { numRuns: 1000 })(
  "equals filter after filter on a sorted list",
  (scores, options) => {
    const { ids, probabilities } = selectCandidates(scores, options);
    const expected = reference(scores, options);
    expect([...ids].toSorted((a, b) => a - b)).toEqual(
      [...expected.keys()].toSorted((a, b) => a - b),
    );
    ids.forEach((id, i) => expect(probabilities[i]).toBeCloseTo(expected.get(id)!, 10));
  },
);

prop.prop([logits, fc.integer({ min: 0, max: 45 })])(
  "the largest come in descending order",
  (keys, count) => {
    const sorted = Array.from(keys.keys()).toSorted((a, b) => keys.at(b)! - keys.at(a)! || a - b);
    expect([...takeLargest(keys, count)]).toEqual(sorted.slice(0, count));
  },
);

describe("filters", () => {
  const scores = logitsOf([0.1, 0.4, 0.2, 0.3]);
  const kept = (options: SamplingOptions): number[] => [...selectCandidates(scores, options).ids];

  test("top-p keeps the smallest set that reaches the sum, the crossing token included", () => {
    expect(kept({ topP: 0.39 })).toEqual([1]);
    expect(kept({ topP: 0.41 })).toEqual([1, 3]);
    expect(kept({ topP: 0.69 })).toEqual([1, 3]);
    expect(kept({ topP: 0.71 })).toEqual([1, 3, 2]);
    expect(kept({ topP: 0.91 })).toEqual([1, 3, 2, 0]);
    expect(kept({ topP: Number.MIN_VALUE })).toEqual([1]);
    const equal = new Float32Array(4);
    expect([...selectCandidates(equal, { topP: 0.5 }).ids]).toEqual([0, 1]); // reached exactly
    expect([...selectCandidates(equal, { topP: 0.51 }).ids]).toEqual([0, 1, 2]);
  });

  test("min-p is relative to the greatest probability", () => {
    expect(kept({ minP: 0.74 })).toEqual([1, 3]);
    expect(kept({ minP: 0.76 })).toEqual([1]);
    expect(kept({ minP: 1 })).toEqual([1]);
    expect(kept({ minP: 0.26 })).toEqual([1, 3, 2]);
  });

  test("top-p counts the probabilities that top-k leaves", () => {
    // Of 0.4, 0.3, 0.2 the first two are 7/9 after top-k and 0.7 before.
    expect(kept({ topK: 3, topP: 0.75 })).toEqual([1, 3]);
    expect(kept({ topP: 0.75 })).toEqual([1, 3, 2]);
  });

  test("temperature comes before the filters", () => {
    expect(kept({ temperature: 0.5, minP: 0.6 })).toEqual([1]); // (3/4)^2
    expect(kept({ temperature: 2, minP: 0.8 })).toEqual([1, 3]); // (3/4)^(1/2)
  });

  test("of equal logits the lower id remains", () => {
    const equal = Float32Array.of(0, 1, 1, 1, 0);
    expect([...selectCandidates(equal, { topK: 2 }).ids]).toEqual([1, 2]);
    expect([...selectCandidates(equal, { topK: 4 }).ids]).toEqual([1, 2, 3, 0]);
  });

  test("tokens that are ruled out have probability 0", () => {
    const masked = Float32Array.of(-Infinity, 0, -Infinity, 0);
    expect([...selectCandidates(masked, { temperature: 1 }).probabilities]).toEqual([
      0, 0.5, 0, 0.5,
    ]);
    const sample = createSampler({ topK: 4, seed: 1 });
    for (let i = 0; i < 50; i++) expect([1, 3]).toContain(sample(masked, []));
  });
});

describe("greedy", () => {
  test("takes the lowest id among equals", () => {
    expect(mostProbable(Float32Array.of(1, 3, 3, 2))).toBe(1);
    expect(
      createSampler({ temperature: 0, topK: 3, topP: 0.5 })(Float32Array.of(1, 3, 3, 2), []),
    ).toBe(1);
  });

  test("is the choice when nothing is said, but not with a filter alone", () => {
    const flat = new Float32Array(1000);
    expect(createSampler({})(flat, [])).toBe(0);
    expect(createSampler({ seed: 1, repetitionPenalty: 1.2 })(flat, [])).toBe(0);
    expect(createSampler({ topP: 0.9, seed: 1 })(flat, [])).not.toBe(0);
  });
});

describe("repetition penalty", () => {
  const scores = Float32Array.of(2, -2, 4, 0);

  test("divides positive and multiplies negative logits, once for each token", () => {
    expect([...penalise(scores, [0, 1, 0, 0], 2)]).toEqual([1, -4, 4, 0]);
    expect([...penalise(scores, [2], 0.5)]).toEqual([2, -2, 8, 0]);
    expect([...scores]).toEqual([2, -2, 4, 0]);
  });

  test("comes before temperature and filters", () => {
    const sample = createSampler({ repetitionPenalty: 4, topK: 1, seed: 1 });
    expect(sample(scores, [])).toBe(2);
    expect(sample(scores, [2])).toBe(0);
    expect(createSampler({ repetitionPenalty: 4 })(scores, [2])).toBe(0);
  });
});

describe("frequencies", () => {
  /** Pearson's statistic of 20,000 draws; the seed is fixed. */
  function chiSquare(scores: Float32Array, options: SamplingOptions): number {
    const draws = 20_000;
    const sample = createSampler({ ...options, seed: 11 });
    const counts = new Map<number, number>();
    for (let i = 0; i < draws; i++) {
      const id = sample(scores, []);
      counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    const expected = reference(scores, options);
    for (const id of counts.keys()) expect(expected.has(id)).toBe(true);
    let statistic = 0;
    for (const [id, p] of expected)
      statistic += ((counts.get(id) ?? 0) - draws * p) ** 2 / (draws * p);
    return statistic;
  }

  const scores = logitsOf([0.02, 0.4, 0.08, 0.2, 0.1, 0.15, 0.05]);

  // Bounds: 0.1 % of the chi-square distribution with one degree of freedom less than candidates.
  test.each([
    [{ temperature: 1 }, 22.5],
    [{ temperature: 2 }, 22.5],
    [{ temperature: 0.7 }, 22.5],
    [{ topK: 3 }, 13.9],
    [{ topP: 0.8 }, 16.3],
    [{ minP: 0.3 }, 13.9],
    [{ temperature: 1.5, topK: 5, topP: 0.9, minP: 0.1 }, 18.5],
  ])("%j", (options, bound) => {
    expect(chiSquare(scores, options)).toBeLessThan(bound);
  });
});

test("a seed repeats its choices, and only them", () => {
  const scores = new Float32Array(50_000);
  const choices = (seed?: number): number[] => {
    const sample = createSampler({ temperature: 1, seed });
    return [sample(scores, []), sample(scores, []), sample(scores, [])];
  };
  expect(choices(5)).toEqual(choices(5));
  expect(choices(5)).not.toEqual(choices(6));
  expect(choices()).not.toEqual(choices());
  expect(new Set(choices(5)).size).toBe(3);
});

test("the logits stay as they are", () => {
  const scores = Float32Array.of(3, 1, 2);
  for (const options of [{}, { temperature: 2 }, { topK: 2, repetitionPenalty: 3, topP: 0.5 }]) {
    createSampler(options)(scores, [0]);
    expect([...scores]).toEqual([3, 1, 2]);
  }
});

test.each([
  [{ temperature: -1 }, "generate: temperature -1 must be at least 0"],
  [{ temperature: Number.NaN }, "generate: temperature NaN must be at least 0"],
  [{ temperature: Infinity }, "generate: temperature Infinity must be at least 0"],
  [{ topK: -1 }, "generate: topK -1 must be an integer of at least 0"],
  [{ topK: 1.5 }, "generate: topK 1.5 must be an integer of at least 0"],
  [{ topP: 0 }, "generate: topP 0 must be above 0 and at most 1"],
  [{ topP: 1.1 }, "generate: topP 1.1 must be above 0 and at most 1"],
  [{ minP: -0.1 }, "generate: minP -0.1 must be from 0 to 1"],
  [{ repetitionPenalty: 0 }, "generate: repetitionPenalty 0 must be above 0"],
  [{ seed: 0.5 }, "generate: seed 0.5 must be an integer from 0 to 2^53 - 1"],
])("refuses %j", (options, message) => {
  expect(() => createSampler(options)).toThrow(message);
});

test.each([
  [Float32Array.of(1, Number.NaN), [], "generate: the logit of token 1 is NaN"],
  [Float32Array.of(Infinity, 1), [], "generate: the logit of token 0 is Infinity"],
  [Float32Array.of(-Infinity), [], "generate: none of 1 logits is a finite number"],
  [new Float32Array(0), [], "generate: none of 0 logits is a finite number"],
  [Float32Array.of(1, 2), [2], "generate: token 2 is beyond the 2 logits"],
])("refuses logits that cannot be sampled from", (scores, previous, message) => {
  for (const temperature of [0, 1]) {
    const sample = createSampler({ temperature, repetitionPenalty: 2 });
    expect(() => sample(scores, previous)).toThrow(message);
  }
});
