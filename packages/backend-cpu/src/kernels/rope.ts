import type { FusedOps } from "@transmla/core";

import { asFloats, narrow } from "../convert.ts";
import { isHalf, startOf, type CpuKernel, type CpuOperand } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import type { Kernels } from "../simd/kernels.ts";

/** About how long one element takes. */
const NANOSECONDS = 0.13;

/** Rotates pairs (2i, 2i+1) when interleaved, else (i, i + D/2). */
export const rope: CpuKernel<FusedOps["rope"]> = (memory, out, [x, cos, sin], { interleaved }) => {
  const { simd } = memory;
  if (simd && ![out, x!, cos!, sin!].some(({ dtype }) => isHalf(dtype))) {
    rotate(simd, out, [x!, cos!, sin!], interleaved);
  } else rotatePlainly(memory, out, [x!, cos!, sin!], interleaved);
};

type Inputs = readonly [x: CpuOperand, cos: CpuOperand, sin: CpuOperand];

/** By WebAssembly kernels; threads share the tokens. */
function rotate(kernels: Kernels, out: CpuOperand, inputs: Inputs, interleaved: boolean): void {
  const [T, H, D] = out.shape as [number, number, number];
  const work = { items: T, multiple: 1, nanoseconds: T * H * D * NANOSECONDS };
  const [x, cos, sin] = inputs;
  kernels.split(work, (call, begin, end) => {
    const from = (operand: CpuOperand): number[] => {
      const steps = operand.strides.slice(0, -1);
      return [startOf(operand) + begin * steps[0]!, ...steps].map((elements) => 4 * elements);
    };
    const places = [x, out, cos, sin].flatMap(from);
    call(interleaved ? "rotatePairs" : "rotateHalves", ...places, end - begin, H, D / 2);
  });
}

function rotatePlainly(
  memory: Memory,
  out: CpuOperand,
  [x, cos, sin]: Inputs,
  interleaved: boolean,
): void {
  const [T, H, D] = out.shape as [number, number, number];
  const half = D / 2;
  const scratch = memory.scratch(4 * D);
  const row = (operand: CpuOperand, t: number, h: number, at: number, width: number): number => {
    const [tokenStep, headStep] = operand.strides as [number, number];
    const start = startOf(operand) + t * tokenStep + h * headStep;
    return asFloats(memory, operand.dtype, start, width, at);
  };
  const { f32 } = memory;
  const [pair, next] = interleaved ? [2, 1] : [1, half];
  const [outToken, outHead] = out.strides as [number, number];
  for (let t = 0; t < T; t++) {
    const c = row(cos, t, 0, scratch, half);
    const s = row(sin, t, 0, scratch + D, half);
    for (let h = 0; h < H; h++) {
      const from = row(x, t, h, scratch + 2 * D, D);
      const target = startOf(out) + t * outToken + h * outHead;
      const to = isHalf(out.dtype) ? scratch + 3 * D : target;
      for (let i = 0; i < half; i++) {
        const a = f32[from + i * pair]!;
        const b = f32[from + i * pair + next]!;
        f32[to + i * pair] = a * f32[c + i]! - b * f32[s + i]!;
        f32[to + i * pair + next] = b * f32[c + i]! + a * f32[s + i]!;
      }
      if (isHalf(out.dtype)) {
        narrow(memory, out.dtype, { at: to, step: 1 }, { at: target, step: 1 }, D);
      }
    }
  }
}
