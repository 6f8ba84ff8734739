import { fc, test as prop } from "@fast-check/vitest";
import { broadcast, collapse, denseStrides, isDense, sizeOf } from "@transmla/core";
import { describe, expect, test } from "vitest";

const shapes = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 6 });

/** Offsets of all elements in row-major order. */
function offsets(shape: readonly number[], strides: readonly number[]): number[] {
  return shape.reduce<number[]>(
    (all, size, axis) =>
      all.flatMap((at) => Array.from({ length: size }, (_, i) => at + i * strides[axis]!)),
    [0],
  );
}

test("sizes and strides of known shapes", () => {
  expect([[], [3], [2, 0, 4], [2, 3, 4]].map(sizeOf)).toEqual([1, 3, 0, 24]);
  expect(denseStrides([2, 3, 4])).toEqual([12, 4, 1]);
  expect(denseStrides([])).toEqual([]);
});

describe("isDense", () => {
  prop.prop([shapes])("dense strides visit 0, 1, 2, ...", (shape) => {
    const visited = offsets(shape, denseStrides(shape));
    expect(visited).toEqual(Array.from({ length: sizeOf(shape) }, (_, i) => i));
    expect(isDense(shape, denseStrides(shape))).toBe(true);
  });

  const strided = shapes.chain((shape) => {
    const strides = fc.array(fc.nat(5), { minLength: shape.length, maxLength: shape.length });
    return fc.tuple(
      fc.constant(shape),
      fc.oneof(
        strides,
        strides.map((s) => s.map((_, i) => denseStrides(shape)[i]!)),
      ),
    );
  });
  prop.prop([strided])("holds exactly when the elements follow each other", ([shape, strides]) => {
    const follow = offsets(shape, strides).every((offset, i) => offset === i);
    expect(isDense(shape, strides)).toBe(follow);
  });
});

describe("broadcast", () => {
  test.each([
    [[], [], []],
    [[3], [], [3]],
    [[2, 3], [3], [2, 3]],
    [
      [2, 1],
      [1, 4],
      [2, 4],
    ],
    [
      [5, 1, 3],
      [4, 1],
      [5, 4, 3],
    ],
    [[0], [1], [0]],
    [
      [1, 0],
      [7, 1],
      [7, 0],
    ],
    [[2], [3], null],
    [[0], [2], null],
    [[2, 3], [2], null],
  ])("[%s] with [%s] is [%s]", (a, b, shape) => {
    expect(broadcast(a, b)).toEqual(shape);
    expect(broadcast(b, a)).toEqual(shape);
  });
});

describe("collapse", () => {
  /** A shape and the strides of up to three operands: dense, broadcast, permuted, with gaps. */
  const walks = fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 6 }).chain((shape) => {
    const dense = denseStrides(shape);
    const axis = (i: number): fc.Arbitrary<number> =>
      fc.oneof(
        { arbitrary: fc.constant(dense[i]!), weight: 4 },
        { arbitrary: fc.constant(0), weight: 1 },
        { arbitrary: fc.nat(30), weight: 1 },
      );
    const operand = fc.tuple(...shape.map((_, i) => axis(i)));
    return fc.tuple(fc.constant(shape), fc.array(operand, { minLength: 1, maxLength: 3 }));
  });

  prop.prop([walks])("visits the same offsets in the same order", ([shape, strides]) => {
    const collapsed = collapse(shape, strides);
    strides.forEach((of, i) => {
      expect(offsets(collapsed.shape, collapsed.strides[i]!)).toEqual(offsets(shape, of));
    });
    expect(collapsed.shape).not.toContain(1);
  });

  test("dense operands become one axis", () => {
    const dense = denseStrides([2, 3, 4]);
    expect(collapse([2, 3, 4], [dense, dense])).toEqual({ shape: [24], strides: [[1], [1]] });
  });

  test("axes stay apart where one operand does not walk them evenly", () => {
    expect(collapse([2, 3, 4], [denseStrides([2, 3, 4]), [0, 4, 1]])).toEqual({
      shape: [2, 12],
      strides: [
        [12, 1],
        [0, 1],
      ],
    });
  });

  test("axes of size 1 vanish, whatever their strides", () => {
    expect(collapse([1, 5, 1], [[99, 1, 7]])).toEqual({ shape: [5], strides: [[1]] });
    expect(collapse([1, 1], [[3, 4]])).toEqual({ shape: [], strides: [[]] });
  });
});
