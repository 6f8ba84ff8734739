import {
  matrix,
  multiply,
  transpose,
  type LinalgOptions,
  type Matrix,
} from "@transmla/core/linalg";

import type { GroupedAttention } from "../../../model/config/model-config.ts";
import { multiplyPairs, setComplexBlock, type ComplexVector } from "../algebra/complex-pairs.ts";
import { beside, columnsOf, rowsOf, stackRows } from "../algebra/matrices.ts";
import type { SourceAttention } from "../source-layer.ts";
import type { JointLatent } from "../steps/joint-latent.ts";
import type { Slots } from "../steps/slots.ts";

// Shapes: H query heads, g kv heads, d head width, m RoPE pairs of a head, r latent width, J slots.

/** What a layer reads besides latent and rotated key. */
export interface ProjectedReading {
  /** `[2 g d]`: what stands for keys and values at every position; the latent holds the rest. */
  readonly mean: Float64Array;
  /** Whether heads read positions: the mean key with its rotation. */
  readonly positions: boolean;
  /** Whether the first position is kept exactly. */
  readonly exactFirst: boolean;
}

/** Projected attention in f64, `[out, in]`, half-split pairs: see `ProjectedAttention` of the model. */
export interface ProjectedMatrices {
  readonly reading: ProjectedReading;
  /** For each slot its RoPE pair. */
  readonly pairs: readonly number[];
  /** `[r + 2 J, 2 g d]`: latent and rotated key from [keys before RoPE ; values]. */
  readonly down: Matrix;
  /** `[r + 2 J]`. */
  readonly downBias: Float64Array;
  /** For each head `[d, r + 1 + 2 J + 2 m]`: from its query to latent, 1, rotated key and, if read, positions. */
  readonly maps: readonly Matrix[];
  /** `[g d, r]`: values of each kv head from the latent; `[H d, r]` where every head reads values of its own. */
  readonly valueUp: Matrix;
  /** `[g d]`, or `[H d]`. */
  readonly valueBias: Float64Array;
  /** `[D, H d]`. */
  readonly output: Matrix;
}

/**
 * Folds slots, phases and latent into the maps of a layer. What they hold of keys and values is their deviation from the
 * mean; the mean of the keys is read at every position, as a key that depends on nothing else.
 *
 * @param source - The layer.
 * @param reading - What it reads besides.
 * @param slots - What keeps its rotation.
 * @param phases - For each head the factors of its queries.
 * @param latent - The latent of keys and values.
 * @param options - The kernels.
 */
export function assembleProjected(
  source: SourceAttention,
  reading: ProjectedReading,
  slots: Slots,
  phases: readonly ComplexVector[],
  latent: JointLatent,
  options: LinalgOptions = {},
): ProjectedMatrices {
  const { mean, positions } = reading;
  const { heads, kvHeads, headDim: d } = source.attention;
  const half = kvHeads * d;
  const rank = latent.encode.rows;
  const down = matrix(rank + slots.read.rows, 2 * half);
  down.data.set(latent.encode.data);
  for (let i = 0; i < slots.read.rows; i++) {
    down.data.set(rowsOf(slots.read, i, i + 1).data, (rank + i) * down.cols);
  }
  const atMean = multiply(down, matrix(2 * half, 1, mean), options);
  const maps = phases.map(({ re, im }, h) => {
    const group = Math.floor(h / (heads / kvHeads));
    const own = (of: Matrix): Matrix => rowsOf(of, group * d, (group + 1) * d);
    const conjugate = { re, im: im.map((x) => -x) };
    return [
      multiplyPairs(conjugate, own(latent.decodeKeys)),
      matrix(d, 1),
      own(slots.rebuild),
      ...(positions ? [positionMap(mean.subarray(group * d, (group + 1) * d))] : []),
    ].reduce(beside);
  });
  return {
    reading,
    pairs: slots.pairs,
    down,
    downBias: atMean.data.map((x) => -x),
    maps,
    valueUp: latent.decodeValues,
    valueBias: mean.slice(half),
    output: source.o,
  };
}

/**
 * A layer with the strongest components of its latent only.
 *
 * @param layer - The layer.
 * @param rank - How many.
 */
export function narrowed(layer: ProjectedMatrices, rank: number): ProjectedMatrices {
  const { down, downBias, maps, valueUp, pairs } = layer;
  const full = down.rows - 2 * pairs.length;
  return {
    ...layer,
    down: stackRows([rowsOf(down, 0, rank), rowsOf(down, full, down.rows)]),
    downBias: Float64Array.of(...downBias.subarray(0, rank), ...downBias.subarray(full)),
    maps: maps.map((map) => beside(columnsOf(map, 0, rank), columnsOf(map, full, map.cols))),
    valueUp: columnsOf(valueUp, 0, rank),
  };
}

/** `[d, 2 m]`: takes a query q to `q conj(k)` for each pair, which asks a key of ones what q asks the key k. */
function positionMap(key: Float64Array): Matrix {
  const pairs = key.length / 2;
  const map = matrix(2 * pairs, 2 * pairs);
  for (let l = 0; l < pairs; l++) {
    const at = [l, l + pairs] as const;
    setComplexBlock(map, at, at, key[l]!, key[l + pairs]!); // its transpose is the block of conj(k)
  }
  return map;
}

/** The tensors that a layer is stored as, `[out, in]`. */
export interface StoredMaps {
  /** `[H 2 d, r]`: of each head keys, then values from the latent. */
  readonly up: Matrix;
  /** `[H 2 d]`. */
  readonly upBias: Float64Array;
  /** `[H (2 J + 2 m), d]`: of each head the queries of the rotated key, then of the positions. */
  readonly queryUp: Matrix;
}

/**
 * Puts the maps of a layer in the form that the model reads.
 *
 * @param layer - The layer.
 * @param c - The attention of the source.
 */
export function storedMaps(
  { maps, valueUp, valueBias, down, pairs, reading }: ProjectedMatrices,
  { heads, headDim: d }: GroupedAttention,
): StoredMaps {
  const rank = down.rows - 2 * pairs.length;
  const upBias = new Float64Array(heads * 2 * d);
  const ups: Matrix[] = [];
  for (const [h, map] of maps.entries()) {
    const group = Math.floor((h * valueUp.rows) / (heads * d));
    ups.push(columnsOf(map, 0, rank), rowsOf(valueUp, group * d, (group + 1) * d));
    upBias.set(columnsOf(map, rank, rank + 1).data, 2 * h * d);
    upBias.set(valueBias.subarray(group * d, (group + 1) * d), (2 * h + 1) * d);
  }
  return {
    up: stackRows(ups),
    upBias,
    queryUp: stackRows(
      maps.flatMap((map) => {
        const read = transpose(columnsOf(map, rank + 1, map.cols));
        return reading.positions ? [read] : [read, matrix(d, d)];
      }),
    ),
  };
}
