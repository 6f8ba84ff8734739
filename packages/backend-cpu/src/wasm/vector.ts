import { float32, float64, unsigned, type Code } from "./encoding.ts";
import {
  effect,
  int,
  operation,
  type F32,
  type F64,
  type I32,
  type Int,
  type Statement,
  type V128,
} from "./expression.ts";

// Vector instructions are the byte 0xfd and a number, which for the relaxed ones is 0x100 and more.

const simd = (number: number, ...immediates: readonly Code[]): Code => {
  return [0xfd, unsigned(number), ...immediates];
};

const unary = (number: number, a: V128): V128 => operation("v128", simd(number), a);

const binary = (number: number, a: V128, b: V128): V128 => operation("v128", simd(number), a, b);

const load = (number: number, alignment: number, address: I32, offset: number): V128 =>
  operation("v128", simd(number, [alignment], unsigned(offset)), address);

/** Operations that do not depend on how a vector is divided into lanes, and loads that widen or repeat. */
export const v128 = {
  load: (address: I32, offset = 0): V128 => load(0x00, 4, address, offset),
  /** Eight i8, each widened to an i16 lane. */
  load8x8S: (address: I32, offset = 0): V128 => load(0x01, 3, address, offset),
  /** Four i16, each widened to an i32 lane. */
  load16x4S: (address: I32, offset = 0): V128 => load(0x03, 3, address, offset),
  /** Four u16, each widened to an i32 lane. */
  load16x4U: (address: I32, offset = 0): V128 => load(0x04, 3, address, offset),
  /** Four bytes in all four lanes. */
  load32Splat: (address: I32, offset = 0): V128 => load(0x09, 2, address, offset),
  /** Eight bytes in both lanes. */
  load64Splat: (address: I32, offset = 0): V128 => load(0x0a, 3, address, offset),
  /** Four bytes in the first lane, zeros in the others. */
  load32Zero: (address: I32, offset = 0): V128 => load(0x5c, 2, address, offset),
  /** Eight bytes in the first lane, zeros in the other. */
  load64Zero: (address: I32, offset = 0): V128 => load(0x5d, 3, address, offset),
  store: (address: I32, value: V128, offset = 0): Statement =>
    effect(simd(0x0b, [4], unsigned(offset)), address, value),
  /** Eight bytes: lane 0 or 1. */
  store64Lane: (address: I32, value: V128, lane: number, offset = 0): Statement =>
    effect(simd(0x5b, [3], unsigned(offset), [lane]), address, value),
  and: (a: V128, b: V128): V128 => binary(0x4e, a, b),
  /** `a & ~b`. */
  andnot: (a: V128, b: V128): V128 => binary(0x4f, a, b),
  or: (a: V128, b: V128): V128 => binary(0x50, a, b),
  xor: (a: V128, b: V128): V128 => binary(0x51, a, b),
  /** The bits of `yes` where the mask is 1, else those of `no`. */
  bitselect: (yes: V128, no: V128, mask: V128): V128 =>
    operation("v128", simd(0x52), yes, no, mask),
  /** Four lanes of 32 bits out of eight: lanes 0 to 3 are those of `a`, 4 to 7 those of `b`. */
  shuffle32: (a: V128, b: V128, lanes: readonly [number, number, number, number]): V128 => {
    const bytes = lanes.flatMap((lane) => [4 * lane, 4 * lane + 1, 4 * lane + 2, 4 * lane + 3]);
    return operation("v128", simd(0x0d, bytes), a, b);
  },
};

/** Sixteen lanes of 8-bit integers. */
export const i8x16 = {
  const: (bits: number): V128 => operation("v128", simd(0x0c, Array<number>(16).fill(bits & 0xff))),
  shrU: (a: V128, bits: Int): V128 => operation("v128", simd(0x6d), a, int(bits)),
  sub: (a: V128, b: V128): V128 => binary(0x71, a, b),
};

/** Eight lanes of 16-bit integers. */
export const i16x8 = {
  /** The lower eight lanes of i8, widened. */
  extendLow8S: (a: V128): V128 => unary(0x87, a),
  /** The upper eight lanes of i8, widened. */
  extendHigh8S: (a: V128): V128 => unary(0x88, a),
  /** Eight i32 lanes, those of `a` first, to the nearest i16. */
  narrow32S: (a: V128, b: V128): V128 => binary(0x85, a, b),
};

/** Four lanes of 32-bit integers. */
export const i32x4 = {
  const: (bits: number): V128 => {
    const lane = [bits, bits >>> 8, bits >>> 16, bits >>> 24].map((byte) => byte & 0xff);
    return operation("v128", simd(0x0c, lane, lane, lane, lane));
  },
  replaceLane: (a: V128, lane: number, value: Int): V128 =>
    operation("v128", simd(0x1c, [lane]), a, int(value)),
  shl: (a: V128, bits: Int): V128 => operation("v128", simd(0xab), a, int(bits)),
  add: (a: V128, b: V128): V128 => binary(0xae, a, b),
  /** The lower four lanes of i16, widened. */
  extendLow16S: (a: V128): V128 => unary(0xa7, a),
  /** The upper four lanes of i16, widened. */
  extendHigh16S: (a: V128): V128 => unary(0xa8, a),
  /** The sums of the products of neighbouring i16 lanes. */
  dot16S: (a: V128, b: V128): V128 => binary(0xba, a, b),
  /** f32 lanes without their fraction; 0 for what is not a number. */
  truncF32: (a: V128): V128 => unary(0xf8, a),
};

/** Four lanes of 32-bit floats. */
export const f32x4 = {
  const: (value: number): V128 => {
    const lane = float32(value);
    return operation("v128", simd(0x0c, lane, lane, lane, lane));
  },
  splat: (a: F32): V128 => operation("v128", simd(0x13), a),
  extractLane: (a: V128, lane: number): F32 => operation("f32", simd(0x1f, [lane]), a),
  convertI32: (a: V128): V128 => unary(0xfa, a),
  /** The nearest integers, ties to even. */
  nearest: (a: V128): V128 => unary(0x6a, a),
  lt: (a: V128, b: V128): V128 => binary(0x43, a, b),
  ge: (a: V128, b: V128): V128 => binary(0x46, a, b),
  abs: (a: V128): V128 => unary(0xe0, a),
  neg: (a: V128): V128 => unary(0xe1, a),
  add: (a: V128, b: V128): V128 => binary(0xe4, a, b),
  sub: (a: V128, b: V128): V128 => binary(0xe5, a, b),
  mul: (a: V128, b: V128): V128 => binary(0xe6, a, b),
  div: (a: V128, b: V128): V128 => binary(0xe7, a, b),
  min: (a: V128, b: V128): V128 => binary(0xe8, a, b),
  max: (a: V128, b: V128): V128 => binary(0xe9, a, b),
  /** `b < a ? b : a`: faster than `min`, and `a` where one is not a number. */
  pmin: (a: V128, b: V128): V128 => binary(0xea, a, b),
  /** `a < b ? b : a`: faster than `max`, and `a` where one is not a number. */
  pmax: (a: V128, b: V128): V128 => binary(0xeb, a, b),
  /** `a * b + c`, rounded once or twice as suits the machine. */
  relaxedMadd: (a: V128, b: V128, c: V128): V128 => operation("v128", simd(0x105), a, b, c),
};

/** Two lanes of 64-bit floats. */
export const f64x2 = {
  splat: (a: F64): V128 => operation("v128", simd(0x14), a),
  extractLane: (a: V128, lane: number): F64 => operation("f64", simd(0x21, [lane]), a),
  add: (a: V128, b: V128): V128 => binary(0xf0, a, b),
  mul: (a: V128, b: V128): V128 => binary(0xf2, a, b),
  const: (value: number): V128 => {
    const lane = float64(value);
    return operation("v128", simd(0x0c, lane, lane));
  },
  /** `a * b + c`, rounded once or twice as suits the machine. */
  relaxedMadd: (a: V128, b: V128, c: V128): V128 => operation("v128", simd(0x107), a, b, c),
};
