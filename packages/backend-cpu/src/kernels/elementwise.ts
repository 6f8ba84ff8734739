import type {
  BinaryFunction,
  FusedOps,
  GateFunction,
  PrimitiveOps,
  UnaryFunction,
} from "@transmla/core";

import { add, overFloats, type FloatLoop, type Lines } from "../float-lines.ts";
import { forEachRow, lastStep, longLines, type CpuKernel, type CpuOperand } from "../kernel.ts";
import type { Memory } from "../memory.ts";
import type { KernelName } from "../simd/kernels.ts";
import { exp, gelu, silu } from "./functions.ts";

// One loop for each function: a loop that called its function through a variable would be five times slower.

type UnaryLoop = (f: Float32Array, lines: Lines, scale: number, shift: number) => void;

const unaryLoops: Readonly<Record<UnaryFunction, UnaryLoop>> = {
  identity: (f, { count, out, outStep, a, aStep }, m, s) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = m * f[a + i * aStep]! + s;
  },
  abs: (f, { count, out, outStep, a, aStep }, m, s) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = Math.abs(m * f[a + i * aStep]! + s);
  },
  exp: (f, { count, out, outStep, a, aStep }, m, s) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = exp(m * f[a + i * aStep]! + s);
  },
  log: (f, { count, out, outStep, a, aStep }, m, s) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = Math.log(m * f[a + i * aStep]! + s);
  },
  rsqrt: (f, { count, out, outStep, a, aStep }, m, s) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = 1 / Math.sqrt(m * f[a + i * aStep]! + s);
  },
  tanh: (f, { count, out, outStep, a, aStep }, m, s) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = Math.tanh(m * f[a + i * aStep]! + s);
  },
  sigmoid: (f, { count, out, outStep, a, aStep }, m, s) => {
    for (let i = 0; i < count; i++)
      f[out + i * outStep] = 1 / (1 + exp(-m * f[a + i * aStep]! - s));
  },
  silu: (f, { count, out, outStep, a, aStep }, m, s) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = silu(m * f[a + i * aStep]! + s);
  },
  gelu: (f, { count, out, outStep, a, aStep }, m, s) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = gelu(m * f[a + i * aStep]! + s);
  },
  sin: (f, { count, out, outStep, a, aStep }, m, s) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = Math.sin(m * f[a + i * aStep]! + s);
  },
  cos: (f, { count, out, outStep, a, aStep }, m, s) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = Math.cos(m * f[a + i * aStep]! + s);
  },
};

const binaryLoops: Readonly<Record<BinaryFunction, FloatLoop>> = {
  add,
  sub: (f, { count, out, outStep, a, aStep, b, bStep }) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = f[a + i * aStep]! - f[b + i * bStep]!;
  },
  mul: (f, { count, out, outStep, a, aStep, b, bStep }) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = f[a + i * aStep]! * f[b + i * bStep]!;
  },
  div: (f, { count, out, outStep, a, aStep, b, bStep }) => {
    for (let i = 0; i < count; i++) f[out + i * outStep] = f[a + i * aStep]! / f[b + i * bStep]!;
  },
  max: (f, { count, out, outStep, a, aStep, b, bStep }) => {
    for (let i = 0; i < count; i++)
      f[out + i * outStep] = Math.max(f[a + i * aStep]!, f[b + i * bStep]!);
  },
  min: (f, { count, out, outStep, a, aStep, b, bStep }) => {
    for (let i = 0; i < count; i++)
      f[out + i * outStep] = Math.min(f[a + i * aStep]!, f[b + i * bStep]!);
  },
  equal: (f, { count, out, outStep, a, aStep, b, bStep }) => {
    for (let i = 0; i < count; i++)
      f[out + i * outStep] = f[a + i * aStep] === f[b + i * bStep] ? 1 : 0;
  },
  less: (f, { count, out, outStep, a, aStep, b, bStep }) => {
    for (let i = 0; i < count; i++)
      f[out + i * outStep] = f[a + i * aStep]! < f[b + i * bStep]! ? 1 : 0;
  },
};

const gateLoops: Readonly<Record<GateFunction, FloatLoop>> = {
  silu: (f, { count, out, outStep, a, aStep, b, bStep }) => {
    for (let i = 0; i < count; i++)
      f[out + i * outStep] = silu(f[a + i * aStep]!) * f[b + i * bStep]!;
  },
  gelu: (f, { count, out, outStep, a, aStep, b, bStep }) => {
    for (let i = 0; i < count; i++)
      f[out + i * outStep] = gelu(f[a + i * aStep]!) * f[b + i * bStep]!;
  },
};

/** About how many nanoseconds an element takes: what memory delivers, and an exponential. */
const ARITHMETIC = 0.4;
const GATE = 1;

/** From this many elements on, a line is worth the call of a WebAssembly kernel. */
const LONG = 64;

/** Threads share a line in multiples of whole rounds of the kernels, which are cache lines. */
const ROUND = 16;

/**
 * A loop by a WebAssembly kernel of three lines, divided among threads, where lines are dense and long, and by plain
 * TypeScript elsewhere.
 */
function byKernel(
  { simd }: Memory,
  kernel: KernelName,
  nanoseconds: number,
  loop: FloatLoop,
): FloatLoop {
  if (!simd) return loop;
  return (f, lines) => {
    const { count, out, outStep, a, aStep, b, bStep } = lines;
    if (count < LONG || outStep !== 1 || aStep !== 1 || bStep !== 1) {
      loop(f, lines);
      return;
    }
    const work = { items: count, multiple: ROUND, nanoseconds: count * nanoseconds };
    simd.split(work, (call, begin, end) => {
      const [from, other, to] = [a, b, out].map((at) => 4 * (at + begin)) as [
        number,
        number,
        number,
      ];
      call(kernel, from, other, to, end - begin);
    });
  };
}

/** Integers wrap around: the store keeps the low 32 bits of what it is given, and 0 of what is not finite. */
const integerFunctions: Readonly<Record<BinaryFunction, (a: number, b: number) => number>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: Math.imul,
  div: (a, b) => a / b, // the store truncates
  max: Math.max,
  min: Math.min,
  equal: (a, b) => (a === b ? 1 : 0),
  less: (a, b) => (a < b ? 1 : 0),
};

function overIntegers(
  memory: Memory,
  operands: readonly CpuOperand[],
  fn: (a: number, b: number) => number,
): void {
  const view = operands[0]!.dtype === "i32" ? memory.i32 : memory.u32;
  const lines = longLines(operands);
  const { shape } = lines[0]!;
  const count = shape.at(-1) ?? 1;
  const [outStep, aStep, bStep] = lines.map(lastStep) as [number, number, number];
  forEachRow(shape, lines, ([out, a, b]) => {
    for (let i = 0; i < count; i++) {
      view[out! + i * outStep] = fn(view[a! + i * aStep]!, view[b! + i * bStep]!);
    }
  });
}

/** `fn(scale * a + shift)`, evaluated in f64 and rounded once. */
export const unary: CpuKernel<PrimitiveOps["unary"]> = (
  memory,
  out,
  inputs,
  { fn, scale, shift },
) => {
  const loop = unaryLoops[fn];
  overFloats(memory, out, inputs, (f, lines) => loop(f, lines, scale, shift));
};

/**
 * `fn(a, b)`. On floats `max` and `min` are those of `Math`: NaN wins, and -0 is less than 0. Integers wrap around,
 * divide towards zero, and give 0 when divided by 0.
 */
export const binary: CpuKernel<PrimitiveOps["binary"]> = (memory, out, inputs, { fn }) => {
  if (out.dtype === "i32" || out.dtype === "u32") {
    overIntegers(memory, [out, ...inputs], integerFunctions[fn]);
    return;
  }
  const loop = binaryLoops[fn];
  const hasKernel = fn !== "equal" && fn !== "less";
  overFloats(
    memory,
    out,
    inputs,
    hasKernel ? byKernel(memory, `${fn} lines`, ARITHMETIC, loop) : loop,
  );
};

/** `fn(gate) * up`. */
export const gatedActivation: CpuKernel<FusedOps["gatedActivation"]> = (
  memory,
  out,
  inputs,
  { fn },
) => {
  const loop = gateLoops[fn];
  overFloats(memory, out, inputs, fn === "silu" ? byKernel(memory, "gate", GATE, loop) : loop);
};
