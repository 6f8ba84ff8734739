import type { PrimitiveOps } from "@transmla/core";

import { asFloats, narrow } from "../convert.ts";
import { forEachRow, isHalf, type CpuKernel, type CpuOperand } from "../kernel.ts";
import type { Memory } from "../memory.ts";

/** Sums are in f64 with one rounding at the end; `max` is `Math.max`, so that NaN wins. */
export const reduce: CpuKernel<PrimitiveOps["reduce"]> = (memory, out, [a], { fn }) => {
  if (out.dtype === "i32" || out.dtype === "u32") reduceIntegers(memory, out, a!, fn);
  else reduceFloats(memory, out, a!, fn);
};

function reduceFloats(
  memory: Memory,
  out: CpuOperand,
  a: CpuOperand,
  fn: PrimitiveOps["reduce"]["fn"],
): void {
  const { dtype } = out;
  const count = a.shape.at(-1)!;
  const row = memory.scratch(isHalf(dtype) ? count : 0);
  const result = memory.scratch(1);
  const { f32 } = memory;
  forEachRow(a.shape, [out, a], ([to, from]) => {
    const at = asFloats(memory, dtype, from!, count, row);
    const value = fn === "sum" ? sumOf(f32, at, count) : maxOf(f32, at, count);
    f32[isHalf(dtype) ? result : to!] = value;
    if (isHalf(dtype)) narrow(memory, dtype, { at: result, step: 1 }, { at: to!, step: 1 }, 1);
  });
}

function sumOf(f: Float32Array, at: number, count: number): number {
  let sum = 0;
  for (let i = at; i < at + count; i++) sum += f[i]!;
  return sum;
}

function maxOf(f: Float32Array, at: number, count: number): number {
  let max = Number.NEGATIVE_INFINITY;
  for (let i = at; i < at + count; i++) max = Math.max(max, f[i]!);
  return max;
}

function reduceIntegers(
  memory: Memory,
  out: CpuOperand,
  a: CpuOperand,
  fn: PrimitiveOps["reduce"]["fn"],
): void {
  const view = out.dtype === "i32" ? memory.i32 : memory.u32;
  const count = a.shape.at(-1)!;
  forEachRow(a.shape, [out, a], ([to, from]) => {
    let result = fn === "sum" ? 0 : view[from!]!;
    for (let i = from!; i < from! + count; i++) {
      result = fn === "sum" ? (result + view[i]!) | 0 : Math.max(result, view[i]!);
    }
    view[to!] = result;
  });
}
