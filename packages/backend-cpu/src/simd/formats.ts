import type { I32, Statement, V128 } from "../wasm/expression.ts";
import type { FunctionScope } from "../wasm/module.ts";
import { i32 } from "../wasm/scalar.ts";
import { f32x4, i32x4, v128 } from "../wasm/vector.ts";

/** How floats are stored, and how kernels read them as vectors of lanes. */
export interface Format {
  /** Bytes of one element. */
  readonly bytes: 2 | 4 | 8;
  /** As many elements as a vector has lanes, in order. */
  readonly load: (scope: FunctionScope, address: I32, offset?: number) => Loaded;
  /** One element in the first lane; zeros in the others. */
  readonly loadFirst: (scope: FunctionScope, address: I32, offset?: number) => Loaded;
  /**
   * Twice as many elements in two vectors, those with even index in the first and with odd index in the second, where that
   * costs less than loading them in order.
   */
  readonly loadEvenOdd?: (
    scope: FunctionScope,
    address: I32,
    offset?: number,
  ) => Loaded<readonly [even: V128, odd: V128]>;
}

/** A value that may take steps before it can be used. */
export interface Loaded<T = V128> {
  /** The steps. */
  readonly before: readonly Statement[];
  /** The value. */
  readonly value: T;
}

/** Bits in the first lane, zeros in the others. */
const first = (bits: I32): V128 => i32x4.replaceLane(i32x4.const(0), 0, bits);

/** f32, as it is. */
export const singles: Format = {
  bytes: 4,
  load: (_, address, offset) => ({ before: [], value: v128.load(address, offset) }),
  loadFirst: (_, address, offset) => ({ before: [], value: v128.load32Zero(address, offset) }),
};

/** f64, as it is. */
export const doubles: Format = {
  bytes: 8,
  load: (_, address, offset) => ({ before: [], value: v128.load(address, offset) }),
  loadFirst: (_, address, offset) => ({ before: [], value: v128.load64Zero(address, offset) }),
};

/** bf16: the upper half of an f32. */
export const brainFloats: Format = {
  bytes: 2,
  load: (_, address, offset) => ({
    before: [],
    value: i32x4.shl(v128.load16x4U(address, offset), 16),
  }),
  loadFirst: (_, address, offset) => ({
    before: [],
    value: first(i32.shl(i32.load16U(address, offset), 16)),
  }),
  loadEvenOdd: (scope, address, offset) => {
    const eight = scope.local("v128");
    const upperHalves = scope.constant(i32x4.const(0xffff_0000));
    return {
      before: [eight.set(v128.load(address, offset))],
      value: [i32x4.shl(eight, 16), v128.and(eight, upperHalves)],
    };
  },
};

/** IEEE 754 half precision. */
export const halfFloats: Format = {
  bytes: 2,
  load: (scope, address, offset) => widenHalves(scope, v128.load16x4S(address, offset)),
  loadFirst: (scope, address, offset) => {
    return widenHalves(scope, first(i32.load16S(address, offset)));
  },
};

/**
 * f32 from f16 bits with extended sign. Shifted into place they mean a number that is too small by 2^112, also where it is
 * subnormal. What then is 65536 or more in magnitude was infinite or not a number: it gets the largest exponent.
 */
function widenHalves(scope: FunctionScope, bits: V128): Loaded {
  const value = scope.local("v128");
  const magnitudeAndSign = scope.constant(i32x4.const(0x8fff_e000));
  const scale = scope.constant(f32x4.const(2 ** 112));
  const limit = scope.constant(f32x4.const(65_536));
  const largestExponent = scope.constant(i32x4.const(0x7f80_0000));
  const special = v128.and(f32x4.ge(f32x4.abs(value), limit), largestExponent);
  return {
    before: [value.set(f32x4.mul(v128.and(i32x4.shl(bits, 13), magnitudeAndSign), scale))],
    value: v128.or(value, special),
  };
}
