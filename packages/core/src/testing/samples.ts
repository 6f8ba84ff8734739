import type { Backend } from "../backend.ts";
import { BLOCK_SIZE, isBlock } from "../blocks.ts";
import {
  decode,
  encode,
  fromBf16Bits,
  fromF16Bits,
  toBf16Bits,
  toF16Bits,
  type DType,
  type HostArray,
} from "../dtype.ts";
import { sizeOf, type Shape } from "../shape.ts";
import { tensor, type Tensor } from "../tensor.ts";

/** Elements on the host in row-major order, as numbers: what the references take and give. */
export interface Elements {
  /** The size of each axis, outermost first. */
  readonly shape: Shape;
  /** As many numbers as the shape holds. */
  readonly values: ArrayLike<number>;
}

/** Which numbers a sample holds. Integer dtypes hold small integers where reals are named. */
export type Values =
  /** Quarters from -4 to 4, or small integers: many equals, exact sums. */
  | "coarse"
  /** Reals from -2 to 2, with some zeros of both signs. */
  | "smooth"
  /** Reals from 1/64 to 4. */
  | "positive"
  /** Reals from -1000 to 1000, whose exponentials overflow. */
  | "large"
  /** From 0 to 2^15, which every dtype reaches. */
  | "natural"
  /** Every finite bit pattern, subnormals and the largest included. */
  | "finite"
  /** Every bit pattern; infinities and NaN are frequent. */
  | "any"
  /** Integers from 0 up to and without `below`. */
  | {
      /** One more than the largest. */
      readonly below: number;
    };

/** How the elements of a sample lie in the memory of a larger block. All lists have one entry for each axis. */
export interface Layout {
  /** The axes in the order of storage, outermost first. */
  readonly order: readonly number[];
  /** Unused positions before the window. */
  readonly before: readonly number[];
  /** Unused positions after it. */
  readonly after: readonly number[];
  /** Whether one stored position serves the whole axis, with stride 0. */
  readonly repeat: readonly boolean[];
}

/** A tensor to be made: everything about it, in few numbers, so that a counterexample can be read and run again. */
export interface Sample {
  /** The element type. */
  readonly dtype: DType;
  /** The size of each axis, outermost first. */
  readonly shape: Shape;
  /** How it lies in memory; dense when absent. */
  readonly layout?: Layout | undefined;
  /** Which numbers it holds. */
  readonly values: Values;
  /** Decides the numbers. */
  readonly seed: number;
}

/** Uniform numbers from 0 to 1 (mulberry32). */
function uniform(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const float = new Float32Array(1);
const floatBits = new Uint32Array(float.buffer);

/** The number that random bits stand for; f32 that is to be rounded to blocks is in the range of halves. */
function fromBits(random: number, dtype: DType): number {
  const bits = Math.floor(random * 2 ** 32);
  switch (dtype) {
    case "u32":
      return bits;
    case "i32":
      return bits | 0;
    case "f16":
      return fromF16Bits(bits >>> 16);
    case "bf16":
      return fromBf16Bits(bits >>> 16);
    case "q8":
    case "q4":
      return fromF16Bits(bits >>> 16);
    case "f32":
      floatBits[0] = bits;
      return float[0]!;
  }
}

/** The nearest number that a float dtype holds. */
function rounded(x: number, dtype: DType): number {
  if (dtype === "f16") return fromF16Bits(toF16Bits(x));
  return dtype === "bf16" ? fromBf16Bits(toBf16Bits(x)) : Math.fround(x);
}

const special = [0, -0, 2 ** -14, -(2 ** -10)];

function draw(values: Values, dtype: DType, random: () => number): number {
  const integer = dtype === "i32" || dtype === "u32";
  if (typeof values === "object") return Math.floor(random() * values.below);
  switch (values) {
    case "coarse":
      if (integer) return Math.floor(random() * 17) - (dtype === "i32" ? 8 : 0);
      return (Math.floor(random() * 33) - 16) / 4;
    case "smooth":
      if (integer) return draw("coarse", dtype, random);
      if (random() < 1 / 16) return special[Math.floor(random() * special.length)]!;
      return rounded(random() * 4 - 2, dtype);
    case "positive":
      return integer ? 1 + Math.floor(random() * 8) : rounded(2 ** (random() * 8 - 6), dtype);
    case "large":
      return integer ? draw("coarse", dtype, random) : rounded(random() * 2000 - 1000, dtype);
    case "natural":
      return integer ? Math.floor(random() * 2 ** 15) : rounded(2 ** (random() * 19 - 4), dtype);
    case "finite": {
      const x = fromBits(random(), dtype);
      return Number.isFinite(x) ? x : draw("coarse", dtype, random);
    }
    case "any":
      if (!integer && random() < 1 / 8)
        return [Infinity, -Infinity, Number.NaN][Math.floor(random() * 3)]!;
      return fromBits(random(), dtype);
  }
}

/** The layout of a sample; blocks are a window of whole blocks also where it names none. */
function layoutOf({ shape, layout, dtype }: Sample): Layout | undefined {
  if (layout || !isBlock(dtype)) return layout;
  const none = shape.map(() => 0);
  const repeat = shape.map(() => false);
  return { order: shape.map((_, axis) => axis), before: none, after: none, repeat };
}

/** The larger tensor that a sample is a window of. */
function storedShape(sample: Sample): number[] {
  const { shape, dtype } = sample;
  const layout = layoutOf(sample);
  if (!layout) return [...shape];
  const { order, before, after, repeat } = layout;
  const stored = order.map(
    (axis) => before[axis]! + (repeat[axis] ? 1 : shape[axis]!) + after[axis]!,
  );
  if (isBlock(dtype)) stored.push(Math.ceil(stored.pop()! / BLOCK_SIZE) * BLOCK_SIZE);
  return stored;
}

/** The numbers that are stored, or the blocks that were made of them. */
function stored(sample: Sample): HostArray | readonly number[] {
  const { dtype, seed } = sample;
  // Blocks are made of finite numbers.
  const values = isBlock(dtype) && sample.values === "any" ? "finite" : sample.values;
  const random = uniform(seed);
  const length = sizeOf(storedShape(sample));
  const drawn = Array.from({ length }, () => draw(values, dtype, random));
  return isBlock(dtype) ? encode(drawn, dtype) : drawn;
}

function storedValues(sample: Sample): ArrayLike<number> {
  const elements = stored(sample);
  return elements instanceof Uint8Array ? decode(elements, sample.dtype) : elements;
}

/**
 * Makes a sample on a backend, by views of a larger tensor where it has a layout. To be called in a scope.
 *
 * @param backend - Where the tensor is made.
 * @param sample - What to make.
 */
export function place(backend: Backend, sample: Sample): Tensor {
  const { shape, dtype } = sample;
  const layout = layoutOf(sample);
  const whole = tensor(backend, stored(sample), storedShape(sample), dtype);
  if (!layout) return whole;
  const { order, before, repeat } = layout;
  let window = whole;
  order.forEach((axis, position) => {
    const end = before[axis]! + (repeat[axis] ? 1 : shape[axis]!);
    window = window.slice(position, before[axis]!, end);
  });
  return window.permute(...shape.map((_, axis) => order.indexOf(axis))).expand(shape);
}

/**
 * The elements of a sample, found by arithmetic on indices that shares no code with tensors.
 *
 * @param sample - What {@link place} makes.
 */
export function elementsOf(sample: Sample): Elements {
  const values = storedValues(sample);
  const { shape } = sample;
  const layout = layoutOf(sample);
  if (!layout) return { shape, values };
  const extents = storedShape(sample);
  const picked = indices(shape).map((index) => {
    const position = layout.order.reduce((outer, axis, i) => {
      return outer * extents[i]! + layout.before[axis]! + (layout.repeat[axis] ? 0 : index[axis]!);
    }, 0);
    return values[position]!;
  });
  return { shape, values: picked };
}

/**
 * All indices into a shape, in row-major order.
 *
 * @param shape - Sizes, outermost first.
 */
export function indices(shape: Shape): number[][] {
  let all: number[][] = [[]];
  for (const size of shape) {
    all = all.flatMap((index) => Array.from({ length: size }, (_, i) => [...index, i]));
  }
  return all;
}
