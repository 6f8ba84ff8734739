import type { I32, Statement, V128 } from "../wasm/expression.ts";
import { f32, f64 } from "../wasm/scalar.ts";
import { f32x4, f64x2, v128 } from "../wasm/vector.ts";

/** A vector as lanes of one float type: what a product is computed in. */
export interface Lanes {
  /** Lanes of a vector. */
  readonly count: 2 | 4;
  /** Bytes of one lane. */
  readonly bytes: 4 | 8;
  /** Whether `a * b + c` is one instruction; if not, the product takes a register of its own. */
  readonly fused: boolean;
  /** One element in all lanes. */
  splat(address: I32, offset?: number): V128;
  /** One element in the first lane, zeros in the others. */
  loadFirst(address: I32, offset?: number): V128;
  /** Writes the first lane. */
  storeFirst(address: I32, value: V128, offset?: number): Statement;
  /** Zeros. */
  zero(): V128;
  /** `a + b`. */
  add(a: V128, b: V128): V128;
  /** `a * b + c`. */
  multiplyAdd(a: V128, b: V128, c: V128): V128;
  /** The sum of all lanes, in the first one at least. */
  sum(a: V128): V128;
}

/**
 * Lanes of f32.
 *
 * @param relaxed - Whether `a * b + c` may be rounded once instead of twice: faster, and not the same on all machines.
 */
export function floatLanes(relaxed: boolean): Lanes {
  return {
    count: 4,
    bytes: 4,
    fused: relaxed,
    splat: (address, offset) => v128.load32Splat(address, offset),
    loadFirst: (address, offset) => v128.load32Zero(address, offset),
    storeFirst: (address, value, offset) => {
      return f32.store(address, f32x4.extractLane(value, 0), offset);
    },
    zero: () => f32x4.const(0),
    add: (a, b) => f32x4.add(a, b),
    multiplyAdd: (a, b, c) => {
      return relaxed ? f32x4.relaxedMadd(a, b, c) : f32x4.add(c, f32x4.mul(a, b));
    },
    sum: (a) => {
      const [x0, x1, x2, x3] = [0, 1, 2, 3].map((lane) => f32x4.extractLane(a, lane));
      return f32x4.splat(f32.add(f32.add(x0!, x2!), f32.add(x1!, x3!)));
    },
  };
}

/**
 * Lanes of f64.
 *
 * @param relaxed - Whether `a * b + c` may be rounded once instead of twice.
 */
export function doubleLanes(relaxed: boolean): Lanes {
  return {
    count: 2,
    bytes: 8,
    fused: relaxed,
    splat: (address, offset) => v128.load64Splat(address, offset),
    loadFirst: (address, offset) => v128.load64Zero(address, offset),
    storeFirst: (address, value, offset) => {
      return f64.store(address, f64x2.extractLane(value, 0), offset);
    },
    zero: () => f64x2.const(0),
    add: (a, b) => f64x2.add(a, b),
    multiplyAdd: (a, b, c) => {
      return relaxed ? f64x2.relaxedMadd(a, b, c) : f64x2.add(c, f64x2.mul(a, b));
    },
    sum: (a) => f64x2.splat(f64.add(f64x2.extractLane(a, 0), f64x2.extractLane(a, 1))),
  };
}
