import type { FusedOps } from "@transmla/core";

import { asFloats, narrow } from "../convert.ts";
import {
  baseOf,
  forEachRow,
  isHalf,
  lastStep,
  startOf,
  type CpuKernel,
  type CpuOperand,
} from "../kernel.ts";
import type { Memory } from "../memory.ts";
import { takeStoredProduct } from "../products/stored.ts";

/** Where the rows of one expert come from and go to: indices into the views of `x` and `out`. */
interface Routed {
  readonly from: number[];
  readonly to: number[];
}

/**
 * Rows times the matrices of chosen experts. The rows of an expert are collected and multiplied as one matrix, so that
 * its weights are read once. Ids outside the experts give zeros.
 */
export const expertMatmul: CpuKernel<FusedOps["expertMatmul"]> = (
  memory,
  out,
  [x, weights, ids],
) => {
  const [E, m, n] = weights!.shape as [number, number, number];
  const [expertStep, columnStep] = weights!.strides as [number, number];
  const routes = routeByExpert(memory, out, x!, ids!);
  const most = Math.max(...[...routes.values()].map(({ to }) => to.length));
  const { dtype } = weights!;
  const base = baseOf(weights!);
  const multiply = takeStoredProduct(
    memory,
    { dtype: "f32", rows: most, columns: n },
    { dtype, rows: n, columns: m },
    { dtype: "f32", rows: most, columns: m },
  );
  const rowsIn = memory.scratch(most * n);
  const rowsOut = memory.scratch(most * m);
  const { f32 } = memory;
  for (const [expert, { from, to }] of routes) {
    const rows = to.length;
    if (expert < 0 || expert >= E) f32.fill(0, rowsOut, rowsOut + rows * m);
    else {
      from.forEach((at, i) => readRow(memory, x!, at, rowsIn + i * n, n));
      const at = startOf(weights!) + expert * expertStep;
      multiply(
        { dtype: "f32", at: rowsIn, rows, columns: n, rowStep: n, columnStep: 1 },
        { dtype, base, at, rows: n, columns: m, rowStep: 1, columnStep },
        { dtype: "f32", at: rowsOut, rows, columns: m, rowStep: m, columnStep: 1 },
      );
    }
    to.forEach((at, i) => writeRow(memory, out, rowsOut + i * m, at, m));
  }
};

function routeByExpert(
  memory: Memory,
  out: CpuOperand,
  x: CpuOperand,
  ids: CpuOperand,
): Map<number, Routed> {
  const routes = new Map<number, Routed>();
  const view = ids.dtype === "i32" ? memory.i32 : memory.u32;
  const [k, idStep] = [ids.shape.at(-1)!, lastStep(ids)];
  const fromStep = x.shape.at(-2) === 1 ? 0 : x.strides.at(-2)!;
  const toStep = out.strides.at(-2)!;
  forEachRow(ids.shape, [out, x, ids], ([to, from, idsAt]) => {
    for (let i = 0; i < k; i++) {
      const expert = view[idsAt! + i * idStep]!;
      let routed = routes.get(expert);
      if (!routed) routes.set(expert, (routed = { from: [], to: [] }));
      routed.from.push(from! + i * fromStep);
      routed.to.push(to! + i * toStep);
    }
  });
  return routes;
}

function readRow(memory: Memory, x: CpuOperand, from: number, to: number, count: number): void {
  const at = asFloats(memory, x.dtype, from, count, to);
  if (at !== to) memory.f32.copyWithin(to, at, at + count);
}

function writeRow(memory: Memory, out: CpuOperand, from: number, to: number, count: number): void {
  if (isHalf(out.dtype)) {
    narrow(memory, out.dtype, { at: from, step: 1 }, { at: to, step: 1 }, count);
  } else memory.f32.copyWithin(to, from, from + count);
}
