import { narrow, widen } from "./convert.ts";
import { forEachRow, isHalf, lastStep, longLines, type CpuOperand } from "./kernel.ts";
import type { Memory } from "./memory.ts";

/** Elements in the f32 view: how many, where those of each operand start, and their steps. */
export interface Lines {
  /** The number of elements. */
  count: number;
  /** Where the first result goes. */
  out: number;
  /** From one result to the next. */
  outStep: number;
  /** The first element of the first operand. */
  a: number;
  /** From one element of it to the next. */
  aStep: number;
  /** The first element of the second operand; meaningless where there is one only. */
  b: number;
  /** From one element of it to the next. */
  bStep: number;
}

/** What is done with lines of elements. */
export type FloatLoop = (f: Float32Array, lines: Lines) => void;

/** `a + b`. */
export const add: FloatLoop = (f, { count, out, outStep, a, aStep, b, bStep }) => {
  for (let i = 0; i < count; i++) f[out + i * outStep] = f[a + i * aStep]! + f[b + i * bStep]!;
};

/** Lines of 16-bit floats are worked on in pieces of this length, which stay in the first-level cache. */
const PIECE = 1024;

/**
 * Runs a loop over all elements of operands of one shape. 16-bit floats pass through scratch: widened before the loop,
 * rounded after it.
 *
 * @param memory - Where the operands lie.
 * @param out - Floats.
 * @param inputs - One or two operands of floats.
 * @param loop - What is done.
 */
export function overFloats(
  memory: Memory,
  out: CpuOperand,
  inputs: readonly CpuOperand[],
  loop: FloatLoop,
): void {
  const operands = longLines([out, ...inputs]);
  const { shape } = operands[0]!;
  const count = shape.at(-1) ?? 1;
  const piece = operands.some(({ dtype }) => isHalf(dtype)) ? Math.min(count, PIECE) : count;
  const ports = operands.map(({ dtype }, i) => {
    const step = lastStep(operands[i]!);
    if (!isHalf(dtype)) return { step, half: null, scratch: { at: 0, step } };
    return { step, half: dtype, scratch: { at: memory.scratch(piece), step: 1 } };
  });
  const [target, a, b = a] = ports as [Port, Port, Port?];
  const [outStep, aStep, bStep] = [target.scratch.step, a.scratch.step, b.scratch.step];
  const lines: Lines = { count: 0, out: 0, outStep, a: 0, aStep, b: 0, bStep };
  const { f32 } = memory;

  const load = (port: Port, at: number): number => {
    if (!port.half) return at;
    widen(memory, port.half, { at, step: port.step }, port.scratch, lines.count);
    return port.scratch.at;
  };

  forEachRow(shape, operands, (rows) => {
    for (let start = 0; start < count; start += piece) {
      const outAt = rows[0]! + start * target.step;
      lines.count = Math.min(piece, count - start);
      lines.out = target.half ? target.scratch.at : outAt;
      lines.a = load(a, rows[1]! + start * a.step);
      if (b !== a) lines.b = load(b, rows[2]! + start * b.step);
      loop(f32, lines);
      if (target.half) {
        narrow(memory, target.half, target.scratch, { at: outAt, step: target.step }, lines.count);
      }
    }
  });
}

/** How the lines of an operand are reached: its own step, and for 16-bit floats where their f32 copies lie. */
interface Port {
  readonly step: number;
  readonly half: "f16" | "bf16" | null;
  readonly scratch: { readonly at: number; readonly step: number };
}
