import { matrix, type Matrix } from "@transmla/core/linalg";

import { owned, readOut } from "../algebra/device.ts";
import { beside, columnsOf, rowsOf, stackRows } from "../algebra/matrices.ts";
import type { VisitedLayer } from "../latent-run.ts";
import { descend } from "../refine/adam.ts";
import { perHead, STEPS, stepWindow } from "../refine/layer-steps.ts";
import { project } from "../source-layer.ts";
import { projectedGradient } from "./projected-gradient.ts";
import type { ProjectedMatrices } from "./projected-layer.ts";

/** What steps need of a layer that is visited. */
export type SteppedProjected = Pick<VisitedLayer, "source" | "inputs" | "goal"> & {
  readonly calibrated: Pick<VisitedLayer["calibrated"], "tensors">;
};

/**
 * Improves all matrices of a layer step by step, towards the goal that its output matrix is fitted to.
 *
 * @param layer - The layer.
 * @param visited - The original, the windows and the goal.
 * @param steps - How many steps.
 * @returns A layer whose heads read values of their own.
 */
export async function stepProjected(
  layer: ProjectedMatrices,
  { source, inputs, calibrated: { tensors }, goal }: SteppedProjected,
  steps: number = STEPS,
): Promise<ProjectedMatrices> {
  const { heads, headDim: d } = source.attention;
  const row = (data: Float64Array): Matrix => matrix(1, data.length, data);
  const column = perHead(matrix(layer.valueBias.length, 1, layer.valueBias), heads, d);
  // What maps ask of latent, rotated key and positions differs in size, and has steps of its own.
  const rank = layer.down.rows - 2 * layer.pairs.length;
  const [width, tail] = [layer.maps[0]!.cols, layer.down.rows + 1];
  const cut = (start: number, end: number): Matrix =>
    stackRows(layer.maps.map((map) => columnsOf(map, start, end)));
  const start = {
    latent: cut(0, rank + 1),
    ...(tail > rank + 1 && { rotated: cut(rank + 1, tail) }),
    ...(width > tail && { positions: cut(tail, width) }),
    down: layer.down,
    downBias: row(layer.downBias),
    valueUp: perHead(layer.valueUp, heads, d),
    valueBias: row(column.data),
    output: layer.output,
  };
  const assembled = (at: typeof start): ProjectedMatrices => {
    const maps = [at.latent, at.rotated, at.positions].filter((part) => part !== undefined);
    const all = maps.reduce(beside);
    return {
      ...layer,
      maps: Array.from({ length: heads }, (_, h) => rowsOf(all, h * d, (h + 1) * d)),
      down: at.down,
      downBias: at.downBias.data,
      valueUp: at.valueUp,
      valueBias: at.valueBias.data,
      output: at.output,
    };
  };
  const found = await descend(
    start,
    async (at, step) => {
      const window = stepWindow(step, steps, inputs.windows);
      using x = inputs.at(window);
      using wanted = goal(window);
      using rows = owned(() => project(x, tensors, source.attention));
      const gradients = await readOut(() =>
        projectedGradient(x, rows, assembled(at), source, wanted),
      );
      const maps = matrix(heads * d, width, Float64Array.from(gradients.maps));
      return {
        ...gradients,
        latent: columnsOf(maps, 0, rank + 1).data,
        rotated: columnsOf(maps, rank + 1, tail).data,
        positions: columnsOf(maps, tail, width).data,
      };
    },
    steps,
  );
  return assembled(found);
}
