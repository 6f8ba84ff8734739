import {
  BLOCK_SIZE,
  blockBytes,
  blockElement,
  byteLength,
  encodeBlock,
  fromBf16Bits,
  fromF16Bits,
  isBlock,
  sizeOf,
  toBf16Bits,
  toF16Bits,
  type BlockDType,
  type DType,
  type PrimitiveOps,
} from "@transmla/core";

import { narrow, widen } from "../convert.ts";
import { add, overFloats } from "../float-lines.ts";
import {
  baseOf,
  forEachRow,
  isHalf,
  lastStep,
  longLines,
  startOf,
  type CpuKernel,
  type CpuOperand,
} from "../kernel.ts";
import type { Memory } from "../memory.ts";

const isInteger = (dtype: DType): boolean => dtype === "i32" || dtype === "u32";

/** The view in which elements of a width are plain bits. */
const bitsOf = (memory: Memory, dtype: DType): Uint32Array | Uint16Array =>
  byteLength(dtype, 1) === 4 ? memory.u32 : memory.u16;

type PlainDType = Exclude<DType, BlockDType>;

function reader(memory: Memory, dtype: PlainDType): (at: number) => number {
  const { f32, i32, u32, u16 } = memory;
  switch (dtype) {
    case "f32":
      return (at) => f32[at]!;
    case "i32":
      return (at) => i32[at]!;
    case "u32":
      return (at) => u32[at]!;
    case "f16":
      return (at) => fromF16Bits(u16[at]!);
    case "bf16":
      return (at) => fromBf16Bits(u16[at]!);
  }
}

function writer(memory: Memory, dtype: PlainDType): (at: number, x: number) => void {
  const { f32, i32, u32, u16 } = memory;
  switch (dtype) {
    case "f32":
      return (at, x) => void (f32[at] = x);
    case "i32":
      return (at, x) => void (i32[at] = x);
    case "u32":
      return (at, x) => void (u32[at] = x);
    case "f16":
      return (at, x) => void (u16[at] = toF16Bits(x));
    case "bf16":
      return (at, x) => void (u16[at] = toBf16Bits(x));
  }
}

/** A value, or a ramp along the last axis: `start + step * i`, rounded once. */
export const fill: CpuKernel<PrimitiveOps["fill"]> = (memory, out, _inputs, { start, step }) => {
  const write = writer(memory, out.dtype as PlainDType);
  const bits = bitsOf(memory, out.dtype);
  const first = startOf(out);
  const end = first + sizeOf(out.shape);
  if (step === 0) {
    write(first, start);
    bits.fill(bits[first]!, first + 1, end);
    return;
  }
  const count = out.shape.at(-1) ?? 1;
  for (let i = 0; i < count; i++) write(first + i, start + step * i);
  for (let row = first + count; row < end; row += count) {
    bits.copyWithin(row, first, first + count);
  }
};

/**
 * Copies elements and converts them: floats are rounded once, to nearest even; what becomes an integer is truncated
 * and, as in JavaScript, taken modulo 2^32, which makes 0 of NaN and infinities.
 */
export const copy: CpuKernel<PrimitiveOps["copy"]> = (memory, out, [a], { accumulate }) => {
  const from = a!.dtype;
  const to = out.dtype;
  if (isBlock(to)) {
    copyToBlocks(memory, to, out, a!);
  } else if (isBlock(from)) {
    copyFromBlocks(memory, from, out, a!);
  } else if (isInteger(from) !== isInteger(to) || (accumulate && isInteger(to))) {
    convertOneByOne(memory, out, a!, accumulate ?? false);
  } else if (accumulate) {
    overFloats(memory, out, [out, a!], add);
  } else if (from === to || isInteger(to)) {
    moveBits(bitsOf(memory, to), out, a!);
  } else convertFloats(memory, out, a!);
};

/** Copies blocks as they are, or makes them of f32. */
function copyToBlocks(memory: Memory, dtype: BlockDType, out: CpuOperand, a: CpuOperand): void {
  const { f32, u8 } = memory;
  const width = out.shape.at(-1)!;
  const step = lastStep(a);
  const [base, sourceBase] = [baseOf(out), baseOf(a)];
  const numbers = new Float32Array(BLOCK_SIZE);
  forEachRow(out.shape, [out, a], ([to, from]) => {
    const target = base + byteLength(dtype, to!);
    if (a.dtype === dtype) {
      const source = sourceBase + byteLength(dtype, from!);
      u8.copyWithin(target, source, source + byteLength(dtype, width));
      return;
    }
    for (let i = 0; i < width; i += BLOCK_SIZE) {
      const count = Math.min(BLOCK_SIZE, width - i);
      for (let j = 0; j < count; j++) numbers[j] = f32[from! + (i + j) * step]!;
      numbers.fill(0, count);
      encodeBlock(dtype, numbers, 0, u8, target + byteLength(dtype, i));
    }
  });
}

/** Widens blocks to f32, by any steps. */
function copyFromBlocks(memory: Memory, dtype: BlockDType, out: CpuOperand, a: CpuOperand): void {
  const { f32, u8 } = memory;
  const count = out.shape.at(-1) ?? 1;
  const [toStep, fromStep] = [lastStep(out), lastStep(a)];
  const base = baseOf(a);
  const size = blockBytes[dtype];
  forEachRow(out.shape, [out, a], ([to, from]) => {
    for (let i = 0; i < count; i++) {
      const at = from! + i * fromStep;
      const start = base + Math.floor(at / BLOCK_SIZE) * size;
      f32[to! + i * toStep] = blockElement(dtype, u8, start, at % BLOCK_SIZE);
    }
  });
}

/** Copies elements of one width as they are, NaN payloads included. */
function moveBits(bits: Uint32Array | Uint16Array, out: CpuOperand, a: CpuOperand): void {
  const lines = longLines([out, a]);
  const { shape } = lines[0]!;
  const count = shape.at(-1) ?? 1;
  const [toStep, fromStep] = lines.map(lastStep) as [number, number];
  forEachRow(shape, lines, ([to, from]) => {
    if (toStep === 1 && fromStep === 1) bits.copyWithin(to!, from!, from! + count);
    else if (toStep === 1 && fromStep === 0) bits.fill(bits[from!]!, to, to! + count);
    else for (let i = 0; i < count; i++) bits[to! + i * toStep] = bits[from! + i * fromStep]!;
  });
}

function convertFloats(memory: Memory, out: CpuOperand, a: CpuOperand): void {
  const [from, to] = [a.dtype, out.dtype];
  if (isHalf(from) && isHalf(to)) {
    overFloats(memory, out, [a], (f, lines) =>
      f.copyWithin(lines.out, lines.a, lines.a + lines.count),
    );
    return;
  }
  const lines = longLines([out, a]);
  const { shape } = lines[0]!;
  const count = shape.at(-1) ?? 1;
  const [toStep, fromStep] = lines.map(lastStep) as [number, number];
  forEachRow(shape, lines, ([toAt, fromAt]) => {
    const source = { at: fromAt!, step: fromStep };
    const target = { at: toAt!, step: toStep };
    if (isHalf(from)) widen(memory, from, source, target, count);
    else if (isHalf(to)) narrow(memory, to, source, target, count);
  });
}

/** Any conversion, through numbers, which hold all elements exactly. */
function convertOneByOne(
  memory: Memory,
  out: CpuOperand,
  a: CpuOperand,
  accumulate: boolean,
): void {
  const [to, from] = [out.dtype as PlainDType, a.dtype as PlainDType];
  const [readOut, readFrom] = [reader(memory, to), reader(memory, from)];
  const write = writer(memory, to);
  const lines = longLines([out, a]);
  const { shape } = lines[0]!;
  const count = shape.at(-1) ?? 1;
  const [toStep, fromStep] = lines.map(lastStep) as [number, number];
  forEachRow(shape, lines, ([to, from]) => {
    for (let i = 0; i < count; i++) {
      const at = to! + i * toStep;
      const x = readFrom(from! + i * fromStep);
      write(at, accumulate ? readOut(at) + x : x);
    }
  });
}
