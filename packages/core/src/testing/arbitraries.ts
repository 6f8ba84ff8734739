import * as fc from "fast-check";

import { BLOCK_SIZE, isBlock, type BlockDType } from "../blocks.ts";
import type { DType } from "../dtype.ts";
import { sizeOf, type Shape } from "../shape.ts";
import type { Layout, Sample, Values } from "./samples.ts";

/** All element types but those of blocks. */
export const dtypes: readonly DType[] = ["f32", "f16", "bf16", "i32", "u32"];

/** The element types that are stored in blocks. */
export const blockDTypes: readonly BlockDType[] = ["q8", "q4"];

/** The element types that hold floats. */
export const floatDTypes: readonly DType[] = ["f32", "f16", "bf16"];

/** The sizes of the tiles and vectors that kernels are written in. */
const tiles = [4, 8, 16, 64];

/**
 * Sizes of an axis: now and then 0, mostly 1, odd numbers, and one less, equal and one more than a tile of 4, 8, 16 or 64.
 *
 * @param limits - The smallest (0 when absent) and the largest size.
 */
export function sizes(limits: {
  readonly min?: number;
  readonly max: number;
}): fc.Arbitrary<number> {
  const { min = 0, max } = limits;
  const edges = [1, 2, 3, ...tiles.flatMap((tile) => [tile - 1, tile, tile + 1])];
  const allowed = [...new Set(edges)].filter((size) => size >= min && size <= max);
  const small = fc.integer({ min: Math.max(min, 1), max: Math.min(max, 11) });
  const choices = [
    { arbitrary: fc.constantFrom(...allowed), weight: 9 },
    { arbitrary: small, weight: 4 },
  ];
  return min > 0
    ? fc.oneof(...choices)
    : fc.oneof({ arbitrary: fc.constant(0), weight: 1 }, ...choices);
}

/** What bounds a generated shape. */
export interface ShapeLimits {
  /** The fewest axes; 0 when absent. */
  readonly minRank?: number;
  /** The most axes. */
  readonly maxRank: number;
  /** The largest size of an axis; 65 when absent. */
  readonly maxSize?: number;
  /** The most elements; 1500 when absent. */
  readonly maxElements?: number;
}

/**
 * Shapes with edge sizes, scalars and empty ones included.
 *
 * @param limits - Bounds.
 */
export function shapes(limits: ShapeLimits): fc.Arbitrary<number[]> {
  const { minRank = 0, maxRank, maxSize = 65, maxElements = 1500 } = limits;
  return fc
    .array(sizes({ max: maxSize }), { minLength: minRank, maxLength: maxRank })
    .map((shape) => {
      const fitting: number[] = [];
      for (const size of shape.toReversed()) {
        const room = Math.floor(maxElements / Math.max(sizeOf(fitting), 1));
        fitting.unshift(size <= room ? size : 1 + (size % Math.max(room, 1)));
      }
      return fitting;
    });
}

/** How the samples of an operand may lie in memory. */
export interface SampleOptions {
  /** Which numbers; `smooth` when absent. */
  readonly values?: Values;
  /** `false` where only dense operands make sense. */
  readonly views?: boolean;
}

/** Mostly layouts that do not cut through blocks: they begin with one on the last axis, which stays in its place. */
function blockLayouts(shape: Shape): fc.Arbitrary<Layout> {
  const last = shape.length - 1;
  const aligned = layouts(shape).map(({ order, before, after, repeat }): Layout => {
    return {
      order: [...order.filter((axis) => axis !== last), last],
      before: before.with(last, before[last]! * BLOCK_SIZE),
      after,
      repeat: repeat.with(last, false),
    };
  });
  return fc.oneof({ arbitrary: aligned, weight: 4 }, { arbitrary: layouts(shape), weight: 1 });
}

function layouts(shape: Shape): fc.Arbitrary<Layout> {
  const axes = shape.map((_, axis) => axis);
  const each = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T[]> =>
    fc.tuple(...axes.map(() => arbitrary));
  const rarely = fc.nat(5).map((n) => n === 5);
  return fc.record({
    order: fc.shuffledSubarray(axes, { minLength: axes.length }),
    before: each(fc.oneof(fc.constant(0), fc.nat(3))),
    after: each(fc.oneof(fc.constant(0), fc.nat(3))),
    repeat: each(rarely),
  });
}

/**
 * Tensors of one shape: dense, or windows of larger blocks with permuted axes, offsets, gaps and axes of stride 0.
 *
 * @param shape - The shape that the tensor has in the end.
 * @param dtype - Its element type.
 * @param options - Which numbers and which views.
 */
export function samples(
  shape: Shape,
  dtype: DType,
  { values = "smooth", views = true }: SampleOptions = {},
): fc.Arbitrary<Sample> {
  const window = views && shape.length > 0;
  return fc.record({
    dtype: fc.constant(dtype),
    shape: fc.constant(shape),
    layout: window
      ? fc.option(isBlock(dtype) ? blockLayouts(shape) : layouts(shape), {
          nil: undefined,
          freq: 3,
        })
      : fc.constant(undefined),
    values: fc.constant(values),
    seed: fc.nat(0xffff),
  });
}

/** The operands of an operation and its attributes: what a test needs to run it. */
export interface Case<Attributes = object> {
  /** In the order of the operation. */
  readonly operands: readonly Sample[];
  /** As the operation takes them. */
  readonly attributes: Attributes;
}

/**
 * Cases of an operation, from the samples of each operand.
 *
 * @param operands - An arbitrary for each operand.
 * @param attributes - Values or arbitraries of the attributes.
 */
export function cases<Attributes = object>(
  operands: readonly fc.Arbitrary<Sample>[],
  attributes: fc.Arbitrary<Attributes>,
): fc.Arbitrary<Case<Attributes>> {
  return fc.record({ operands: fc.tuple(...operands), attributes });
}

/** Dtypes of floats. */
export const anyFloat: fc.Arbitrary<DType> = fc.constantFrom(...floatDTypes);

/** Dtypes of floats and of blocks. */
export const anyFloatOrBlocks: fc.Arbitrary<DType> = fc.constantFrom(
  ...floatDTypes,
  ...blockDTypes,
);

/** All dtypes but those of blocks. */
export const anyDType: fc.Arbitrary<DType> = fc.constantFrom(...dtypes);
