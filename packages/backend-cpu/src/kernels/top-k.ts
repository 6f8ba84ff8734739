import type { DType, PrimitiveOps } from "@transmla/core";

import { asFloats } from "../convert.ts";
import { forEachRow, isHalf, type CpuKernel } from "../kernel.ts";
import type { Memory } from "../memory.ts";

/**
 * Indices of the k largest elements, largest first, the lower index first among equals; -0 equals 0, and NaN counts as
 * larger than every number. A heap of the best k so far: O(n log k).
 */
export const topK: CpuKernel<PrimitiveOps["topK"]> = (memory, out, [a], { k }) => {
  const { dtype } = a!;
  const count = a!.shape.at(-1)!;
  const scratch = memory.scratch(isHalf(dtype) ? count : 0);
  const { i32 } = memory;
  const view = viewOf(memory, dtype);
  const heap = new Heap(k);
  forEachRow(a!.shape, [out, a!], ([to, from]) => {
    const at = asFloats(memory, dtype, from!, count, scratch);
    heap.length = 0;
    for (let i = 0; i < count; i++) heap.offer(rank(view[at + i]!), i);
    for (let i = k - 1; i >= 0; i--) i32[to! + i] = heap.takeWorst();
  });
};

function viewOf({ f32, i32, u32 }: Memory, dtype: DType): Float32Array | Int32Array | Uint32Array {
  if (dtype === "i32") return i32;
  return dtype === "u32" ? u32 : f32;
}

/** A number in f64 that orders NaN above infinity, and infinity above all that f32 holds. */
function rank(x: number): number {
  if (x === Number.POSITIVE_INFINITY) return Number.MAX_VALUE;
  return Number.isNaN(x) ? Number.POSITIVE_INFINITY : x;
}

/** The best `capacity` pairs of rank and index that were offered; the worst of them is at the root. */
class Heap {
  length = 0;
  readonly #ranks: Float64Array;
  readonly #indices: Int32Array;

  constructor(capacity: number) {
    this.#ranks = new Float64Array(capacity);
    this.#indices = new Int32Array(capacity);
  }

  /** Indices are offered in ascending order: among equals, what is there already is better. */
  offer(rank: number, index: number): void {
    if (this.length < this.#ranks.length) this.#rise(this.length++, rank, index);
    else if (rank > this.#ranks[0]!) this.#sink(rank, index);
  }

  /** Removes the worst pair and returns its index. */
  takeWorst(): number {
    const worst = this.#indices[0]!;
    const last = --this.length;
    if (last > 0) this.#sink(this.#ranks[last]!, this.#indices[last]!);
    return worst;
  }

  #worse(a: number, rank: number, index: number): boolean {
    const other = this.#ranks[a]!;
    return other < rank || (other === rank && this.#indices[a]! > index);
  }

  #set(at: number, rank: number, index: number): void {
    this.#ranks[at] = rank;
    this.#indices[at] = index;
  }

  /** Moves a new pair from a leaf to where its parent is worse. */
  #rise(leaf: number, rank: number, index: number): void {
    let at = leaf;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (this.#worse(parent, rank, index)) break;
      this.#set(at, this.#ranks[parent]!, this.#indices[parent]!);
      at = parent;
    }
    this.#set(at, rank, index);
  }

  /** Puts a pair at the root and moves it to where both children are better. */
  #sink(rank: number, index: number): void {
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.length) break;
      const right = child + 1;
      if (right < this.length && this.#worse(right, this.#ranks[child]!, this.#indices[child]!)) {
        child = right;
      }
      if (!this.#worse(child, rank, index)) break;
      this.#set(at, this.#ranks[child]!, this.#indices[child]!);
      at = child;
    }
    this.#set(at, rank, index);
  }
}
