import { add, concat, full, matmul, rope, tensor, type Backend, type Tensor } from "@transmla/core";

import type { ProjectedAttention } from "../../../model/config/model-config.ts";
import { projectedHeads, type ProjectedMaps } from "../../../model/projected-attention.ts";
import { owned, upload } from "../algebra/device.ts";
import {
  rotationTables,
  type Projected,
  type Rotation,
  type SourceAttention,
} from "../source-layer.ts";
import type { KeyFeatures } from "../steps/logit-gradient.ts";
import { wholeWindow } from "../whole-window.ts";
import { storedMaps, type ProjectedMatrices, type ProjectedReading } from "./projected-layer.ts";

/**
 * The same rows, with zeros for an exact first position. The surrounding scope owns them.
 *
 * @param x - `[T, ...]`.
 * @param exactFirst - Whether there is one.
 */
export function behindFirst(x: Tensor, exactFirst: boolean): Tensor {
  if (!exactFirst) return x;
  const [T, ...shape] = x.shape as [number, ...number[]];
  const none = full(x.backend, [1, ...shape], 0);
  return T === 1 ? none : concat([none, x.slice(0, 1, T)], 0);
}

/**
 * Keys less their mean; zeros for an exact first position. The surrounding scope owns them.
 *
 * @param keys - `[T, g, d]`.
 * @param reading - The mean.
 */
export function deviations(keys: Tensor, { mean, exactFirst }: ProjectedReading): Tensor {
  const [, g, d] = keys.shape as [number, number, number];
  const shift = tensor(
    keys.backend,
    mean.subarray(0, g * d).map((x) => -x),
    [g, d],
  );
  return behindFirst(add(keys, shift), exactFirst);
}

/**
 * What the maps of heads read: latent, 1, rotated key and positions; zeros for an exact first position.
 *
 * @param source - The original layer.
 * @param layer - What its keys and values are projected by.
 */
export function projectedFeatures(
  { frequencies }: SourceAttention,
  { down, downBias, pairs, reading: { positions, exactFirst } }: ProjectedMatrices,
): KeyFeatures {
  const rank = down.rows - 2 * pairs.length;
  const slots = pairs.map((pair) => frequencies[pair]!);
  const blocks = [slots, positions ? frequencies : []].filter(({ length }) => length > 0);
  return {
    rotated: blocks,
    exactFirst,
    of: ({ keys, values }) => {
      const { backend } = keys;
      const [T, g, d] = keys.shape as [number, number, number];
      const y = concat([keys.reshape([T, g * d]), values.reshape([T, g * d])], 1);
      const bias = tensor(backend, downBias, [down.rows]);
      const projected = add(matmul(y, upload(backend, down).transpose()), bias);
      const rotated = (key: Tensor, list: readonly number[]): Tensor => {
        const { cos, sin } = rotationTables(backend, list, T);
        const turned = rope(key.reshape([T, 1, key.shape[1]!]), cos, sin, { interleaved: false });
        return turned.reshape([T, key.shape[1]!]);
      };
      const ones = concat([full(backend, [T, d / 2], 1), full(backend, [T, d / 2], 0)], 1);
      const parts = [
        projected.slice(1, 0, rank),
        full(backend, [T, 1], 1),
        ...(slots.length > 0 ? [rotated(projected.slice(1, rank, down.rows), slots)] : []),
        ...(positions ? [rotated(ones, frequencies)] : []),
      ];
      return behindFirst(concat(parts, 1), exactFirst);
    },
  };
}

/** The maps of a layer on a backend, as a model of one layer has them. */
export interface RunnableLayer extends Disposable {
  /** The outputs of all heads `[T, H d]` of a window; the surrounding scope owns them. */
  heads(rows: Projected): Tensor;
}

/**
 * Uploads a layer, to be run with the attention of the model.
 *
 * @param backend - Where to.
 * @param layer - The layer.
 * @param source - The original.
 * @param rotation - Its tables, of the length of the longest window.
 */
export function uploadProjected(
  backend: Backend,
  layer: ProjectedMatrices,
  { attention: c }: SourceAttention,
  rotation: Rotation,
): RunnableLayer {
  const stored = storedMaps(layer, c);
  const tensors = owned(() => ({
    down: upload(backend, layer.down),
    downBias: tensor(backend, layer.downBias, [layer.downBias.length]),
    up: upload(backend, stored.up),
    upBias: tensor(backend, stored.upBias, [stored.upBias.length]),
    queryUp: upload(backend, stored.queryUp),
  }));
  const maps: ProjectedMaps = {
    down: { weight: tensors.down, bias: tensors.downBias },
    up: { weight: tensors.up, bias: tensors.upBias },
    queryUp: tensors.queryUp,
  };
  const sizes = { latentRank: layer.down.rows - 2 * layer.pairs.length, pairs: layer.pairs };
  const { exactFirst } = layer.reading;
  const projected: ProjectedAttention = { ...c, kind: "projected", exactFirst, layers: [sizes] };
  return {
    heads: ({ queries: q, keys: k, values: v }) => {
      const T = q.shape[0]!;
      const heads = projectedHeads({ q, k, v }, maps, projected, wholeWindow(T, { rotation }));
      return heads.reshape([T, c.heads * c.headDim]);
    },
    [Symbol.dispose]: () => tensors[Symbol.dispose](),
  };
}
