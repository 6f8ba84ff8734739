// What the properties are about: sizes that fast-check draws and shrinks, and the random layers that follow from them.
import { fc } from "@fast-check/vitest";

import type { HostTensor } from "../../../src/convert/host-tensor.ts";
import type { GroupedAttention, RopeConfig } from "../../../src/model/config/model-config.ts";
import type { GroupedWeights } from "../../../src/model/weights.ts";
import type { Rows } from "../reference/attention.ts";
import { Random } from "./random.ts";

/** Seeds of {@link Random}. */
export const seeds: fc.Arbitrary<number> = fc.nat(2 ** 31 - 1);

/** A grouped layer and a sequence for it. */
export interface LayerSize {
  /** D, at least 2 g d. */
  readonly hidden: number;
  /** H, a multiple of g. */
  readonly heads: number;
  /** g. */
  readonly kvHeads: number;
  /** d, even. */
  readonly headDim: number;
  /** T. */
  readonly tokens: number;
  readonly seed: number;
}

/** The smallest groups that a statement is about. */
interface LayerLimits {
  /** The fewest kv heads; 1 when absent. */
  readonly minKvHeads?: number;
  /** The fewest query heads of a kv head; 1 when absent. */
  readonly minRepeats?: number;
}

/** The shape that the list of properties fixes. */
const fixture = { hidden: 48, heads: 8, kvHeads: 4, headDim: 6 };

const sequences = fc.record({ tokens: fc.integer({ min: 5, max: 40 }), seed: seeds });

/**
 * Layers of the fixed shape D = 48, H = 8, g = 4, d = 6, for counterexamples: small shapes can happen to meet a premise
 * nearly, such as two random rotations of the plane by almost the same angle.
 */
export const fixtureSizes: fc.Arbitrary<LayerSize> = sequences.map((sequence) =>
  Object.assign({}, fixture, sequence),
);

/** Sizes of grouped layers; one in four is D = 48, H = 8, g = 4, d = 6. */
export function layerSizes({
  minKvHeads = 1,
  minRepeats = 1,
}: LayerLimits = {}): fc.Arbitrary<LayerSize> {
  const drawn = fc
    .record({
      kvHeads: fc.integer({ min: minKvHeads, max: 4 }),
      repeats: fc.integer({ min: minRepeats, max: 4 }),
      pairs: fc.integer({ min: 1, max: 4 }),
      spare: fc.nat(8),
    })
    .map(({ kvHeads, repeats, pairs, spare }) => {
      const headDim = 2 * pairs;
      return { hidden: 2 * kvHeads * headDim + spare, heads: kvHeads * repeats, kvHeads, headDim };
    });
  const fixed = fc.constant(fixture);
  const shapes = fc.oneof({ arbitrary: drawn, weight: 3 }, { arbitrary: fixed, weight: 1 });
  return fc.tuple(shapes, sequences).map(([shape, sequence]) => Object.assign({}, shape, sequence));
}

/** A random layer with a sequence. */
export interface GroupedLayer {
  /** `[T, D]`. */
  readonly x: Rows;
  readonly weights: GroupedWeights<HostTensor>;
  readonly attention: GroupedAttention;
  /** Distinct frequencies; half-split pairs. */
  readonly rope: RopeConfig;
}

/** The layer of a size. */
export function groupedLayer(
  size: LayerSize,
  options: { readonly biased?: boolean } = {},
): GroupedLayer {
  const { hidden, heads, kvHeads, headDim, tokens } = size;
  const random = new Random(size.seed);
  return {
    x: random.rows(tokens, hidden),
    weights: {
      q: random.linear(heads * headDim, hidden, options.biased),
      k: random.linear(kvHeads * headDim, hidden, options.biased),
      v: random.linear(kvHeads * headDim, hidden, options.biased),
      o: random.linear(hidden, heads * headDim),
    },
    attention: { kind: "grouped", heads, kvHeads, headDim, scale: headDim ** -0.5 },
    rope: { frequencies: random.frequencies(headDim / 2), interleaved: false, tableScale: 1 },
  };
}

/** A latent layer of the DeepSeek form. */
export interface LatentSize {
  readonly hidden: number;
  readonly heads: number;
  readonly nopeDim: number;
  readonly ropeDim: number;
  readonly valueDim: number;
  readonly latentRank: number;
  readonly queryRank: number | null;
  readonly biased: boolean;
  readonly layers: number;
  readonly tokens: number;
  readonly seed: number;
}

/** Sizes of latent layers and models. Biases come with a query rank, as `q_proj` has none. */
export const latentSizes: fc.Arbitrary<LatentSize> = fc
  .record({
    hidden: fc.integer({ min: 8, max: 40 }),
    heads: fc.integer({ min: 1, max: 6 }),
    nopeDim: fc.integer({ min: 1, max: 8 }),
    ropeDim: fc.integer({ min: 1, max: 4 }).map((pairs) => 2 * pairs),
    valueDim: fc.integer({ min: 1, max: 8 }),
    latentRank: fc.integer({ min: 2, max: 24 }),
    queryRank: fc.option(fc.integer({ min: 2, max: 16 })),
    biased: fc.boolean(),
    layers: fc.integer({ min: 1, max: 2 }),
    tokens: fc.integer({ min: 5, max: 20 }),
    seed: seeds,
  })
  .map((size) => Object.assign(size, { biased: size.biased && size.queryRank !== null }));
