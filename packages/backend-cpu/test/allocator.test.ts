import { fc, test as prop } from "@fast-check/vitest";
import { describe, expect, test } from "vitest";

import { Allocator, type Block } from "../src/allocator.ts";

const SPACE = 64 * 256;

/** Allocates a size, or releases the live block with this number, counted modulo the live ones. */
type Step =
  | { readonly kind: "allocate"; readonly bytes: number }
  | { readonly kind: "release"; readonly which: number }
  | { readonly kind: "extend"; readonly granules: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    kind: fc.constant("allocate" as const),
    bytes: fc.oneof(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 6000 })),
  }),
  fc.record({ kind: fc.constant("release" as const), which: fc.nat(1000) }),
  fc.record({ kind: fc.constant("extend" as const), granules: fc.integer({ min: 1, max: 8 }) }),
);

/** Live and free blocks together must cover the space without gaps or overlaps. */
function expectTiled(allocator: Allocator, live: readonly Block[], space: number): void {
  const all = [...allocator.freeBlocks(), ...live].toSorted((a, b) => a.offset - b.offset);
  let end = 0;
  for (const { offset, size } of all) {
    expect(offset).toBe(end);
    expect(offset % 64).toBe(0);
    end = offset + size;
  }
  expect(end).toBe(space);
}

describe("allocator", () => {
  prop.prop([fc.array(step, { maxLength: 200 })])(
    "blocks never overlap, leave no gaps, and coalesce into one when all are released",
    (steps) => {
      const allocator = new Allocator();
      allocator.extend(SPACE);
      let space = SPACE;
      const live: Block[] = [];
      for (const action of steps) {
        if (action.kind === "extend") {
          allocator.extend(action.granules * 64);
          space += action.granules * 64;
        } else if (action.kind === "release") {
          const [block] = live.splice(action.which % Math.max(live.length, 1), 1);
          if (block) allocator.release(block);
        } else {
          const largest = Math.max(0, ...allocator.freeBlocks().map(({ size }) => size));
          const block = allocator.allocate(action.bytes);
          expect(block === null).toBe(action.bytes > largest);
          if (block) live.push(block);
        }
        expectTiled(allocator, live, space);
      }
      for (const block of live) allocator.release(block);
      expect(allocator.freeBlocks()).toEqual([{ offset: 0, size: space }]);
      expect(allocator.freeAtEnd).toBe(space);
    },
  );

  test("the smallest block that is large enough is taken", () => {
    const allocator = new Allocator();
    allocator.extend(SPACE);
    const take = (size: number): Block => allocator.allocate(size)!;
    const [large, , small, , middle] = [
      take(640),
      take(64),
      take(320),
      take(64),
      take(448),
      take(64),
    ];
    for (const block of [large, small, middle]) allocator.release(block);
    expect(take(330)).toMatchObject({ offset: middle.offset, size: 384 });
    expect(take(320)).toMatchObject({ offset: small.offset, size: 320 });
    expect(take(500)).toMatchObject({ offset: large.offset, size: 512 });
  });

  test("nothing fits an empty space, and more than the space never fits", () => {
    const allocator = new Allocator();
    expect(allocator.freeAtEnd).toBe(0);
    expect(allocator.allocate(1)).toBeNull();
    allocator.extend(SPACE);
    expect(allocator.allocate(SPACE + 1)).toBeNull();
    expect(allocator.allocate(2 ** 50)).toBeNull();
    expect(allocator.allocate(SPACE)).toMatchObject({ offset: 0, size: SPACE });
    expect(allocator.freeAtEnd).toBe(0);
  });
});
