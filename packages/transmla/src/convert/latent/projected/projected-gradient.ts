import {
  add,
  attention,
  concat,
  full,
  matmul,
  mul,
  sub,
  sum,
  tensor,
  type Tensor,
} from "@transmla/core";

import { upload } from "../algebra/device.ts";
import { stackRows } from "../algebra/matrices.ts";
import type { Goal } from "../latent-run.ts";
import { attentionGradient } from "../refine/attention-gradient.ts";
import { rotationTables, type Projected, type SourceAttention } from "../source-layer.ts";
import { turnFeatures } from "../steps/logit-gradient.ts";
import type { ProjectedMatrices } from "./projected-layer.ts";
import { behindFirst, projectedFeatures } from "./run-layer.ts";

/** For each matrix of a layer its gradient; `maps` is `[H, d, w]`. */
export type ProjectedGradients = Readonly<
  Record<"down" | "downBias" | "maps" | "valueUp" | "valueBias" | "output", Tensor>
>;

/**
 * The gradient of half the squared errors of a layer on a window, `Σ w |y - target|² / 2`, by all of its matrices. The
 * projections of the source stay as they are.
 *
 * @param x - The normalised inputs `[T, D]`.
 * @param rows - Queries, keys and values of them in the original.
 * @param layer - The layer; `valueUp` is `[H d, r]` and `valueBias` `[H d]`.
 * @param source - The original layer.
 * @param goal - What its outputs should be, and how much tokens count.
 * @returns The gradients; the surrounding scope owns them.
 */
export function projectedGradient(
  x: Tensor,
  rows: Projected,
  layer: ProjectedMatrices,
  source: SourceAttention,
  goal: Pick<Goal, "target" | "weights">,
): ProjectedGradients {
  const { backend } = x;
  const { heads: H, kvHeads: g, headDim: d, scale } = source.attention;
  const T = x.shape[0]!;
  const width = layer.maps[0]!.cols;
  const rank = layer.down.rows - 2 * layer.pairs.length;
  const behind = (of: Tensor): Tensor => behindFirst(of, layer.reading.exactFirst);
  const byHead = (of: Tensor): Tensor => of.permute(1, 0, 2);
  const { rotated, of } = projectedFeatures(source, layer);
  const tables = rotationTables(backend, rotated.flat(), T);

  const features = of({ x, ...rows }); // [T, w]
  const maps = upload(backend, stackRows(layer.maps)).reshape([H, d, width]);
  const queries = turnFeatures(byHead(matmul(byHead(rows.queries), maps)), rotated, tables, 1);
  const keys = features.reshape([T, 1, width]).expand([T, H, width]);
  const latent = features.slice(1, 0, rank);
  const valueUp = upload(backend, layer.valueUp);
  const valueBias = tensor(backend, layer.valueBias, [H, d]);
  const values = behind(add(matmul(latent, valueUp.transpose()).reshape([T, H, d]), valueBias));

  // An exact first position has a column of queries and keys for its score, and its own value.
  const ones = full(backend, [T, H, 1], 1);
  const mark = sub(ones, behind(ones));
  const first = (of: Tensor): Tensor =>
    of
      .slice(0, 0, 1)
      .reshape([1, g, 1, d])
      .expand([1, g, H / g, d])
      .reshape([1, H, d]);
  const scores = sum(mul(rows.rotatedQueries, first(rows.rotatedKeys)));
  const q = concat([queries, scores], 2);
  const k = concat([keys, mark], 2);
  const v = add(values, mul(mark, first(rows.values)));
  const mixed = attention(q, k, v, { scale, causal: true });
  const flat = mixed.reshape([T, H * d]);
  const output = upload(backend, layer.output);
  const error = sub(matmul(flat, output.transpose()), goal.target);
  const outputs = goal.weights ? mul(error, goal.weights) : error;

  const by = attentionGradient(
    { q, k, v },
    mixed,
    matmul(outputs, output).reshape([T, H, d]),
    scale,
  );
  const asked = turnFeatures(by.q.slice(2, 0, width), rotated, tables, -1);
  const overHeads = sum(by.k.slice(2, 0, width).permute(0, 2, 1)).reshape([T, 1, width]);
  const read = turnFeatures(overHeads, rotated, tables, -1).reshape([T, width]);
  const valued = behind(by.v).reshape([T, H * d]);
  const projected = behind(
    concat(
      [
        add(read.slice(1, 0, rank), matmul(valued, valueUp)),
        read.slice(1, rank + 1, layer.down.rows + 1),
      ],
      1,
    ),
  );
  const y = concat([rows.keys.reshape([T, g * d]), rows.values.reshape([T, g * d])], 1);
  const total = (of: Tensor): Tensor => sum(of.transpose()).reshape([of.shape[1]!]);
  return {
    output: matmul(outputs.transpose(), flat),
    maps: matmul(byHead(rows.queries).transpose(), byHead(asked)),
    valueUp: matmul(valued.transpose(), latent),
    valueBias: total(valued),
    down: matmul(projected.transpose(), y),
    downBias: total(projected),
  };
}
