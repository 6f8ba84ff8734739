import { isBlock } from "@transmla/core";

import type { Memory } from "../memory.ts";
import type { Matrix, StoredMatrix, Unplaced } from "./matrix.ts";
import { takePlainProduct } from "./plain.ts";
import { takeSimdProduct } from "./simd.ts";

/**
 * `c = a · b`, or `c += a · b` where `accumulate` is true: `a` `[m, k]` holds floats, `b` `[k, n]` floats or blocks, `c`
 * `[m, n]` f32 apart from them; its columns follow one another.
 */
export type Product = (a: StoredMatrix, b: StoredMatrix, c: Matrix, accumulate: boolean) => void;

/**
 * Takes scratch for products.
 *
 * @param memory - Where everything lies.
 * @param a - The largest left matrix.
 * @param b - The largest right matrix.
 */
export function takeProduct(memory: Memory, a: Unplaced, b: Unplaced): Product {
  const { simd } = memory;
  return simd && !isBlock(b.dtype)
    ? takeSimdProduct(memory, simd, a, b)
    : takePlainProduct(memory, a, b);
}
