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
} from "./expression.ts";

// Named as in the text format: `i32.add` is i32.add. Signs are part of names: `ltU` compares as unsigned.

/** What follows a load or store: the alignment as a power of two, and a constant added to the address. */
function access(opcode: number, alignment: number, offset: number): Code {
  return [opcode, alignment, unsigned(offset)];
}

/** Operations on 32-bit integers. Addresses are unsigned; sums wrap around at 4 GiB. */
export const i32 = {
  const: (value: number): I32 => int(value),
  eqz: (a: Int): I32 => operation("i32", [0x45], int(a)),
  eq: (a: Int, b: Int): I32 => operation("i32", [0x46], int(a), int(b)),
  ne: (a: Int, b: Int): I32 => operation("i32", [0x47], int(a), int(b)),
  ltS: (a: Int, b: Int): I32 => operation("i32", [0x48], int(a), int(b)),
  ltU: (a: Int, b: Int): I32 => operation("i32", [0x49], int(a), int(b)),
  geU: (a: Int, b: Int): I32 => operation("i32", [0x4f], int(a), int(b)),
  add: (a: Int, b: Int): I32 => operation("i32", [0x6a], int(a), int(b)),
  sub: (a: Int, b: Int): I32 => operation("i32", [0x6b], int(a), int(b)),
  mul: (a: Int, b: Int): I32 => operation("i32", [0x6c], int(a), int(b)),
  and: (a: Int, b: Int): I32 => operation("i32", [0x71], int(a), int(b)),
  shl: (a: Int, b: Int): I32 => operation("i32", [0x74], int(a), int(b)),
  shrU: (a: Int, b: Int): I32 => operation("i32", [0x76], int(a), int(b)),
  /** One of two values, both of which are computed. */
  select: (condition: Int, yes: Int, no: Int): I32 =>
    operation("i32", [0x1b], int(yes), int(no), int(condition)),
  load: (address: I32, offset = 0): I32 => operation("i32", access(0x28, 2, offset), address),
  load16S: (address: I32, offset = 0): I32 => operation("i32", access(0x2e, 1, offset), address),
  load16U: (address: I32, offset = 0): I32 => operation("i32", access(0x2f, 1, offset), address),
  store: (address: I32, value: Int, offset = 0): Statement =>
    effect(access(0x36, 2, offset), address, int(value)),
};

/** Operations on 32-bit floats. */
export const f32 = {
  const: (value: number): F32 => operation("f32", [0x43, float32(value)]),
  eq: (a: F32, b: F32): I32 => operation("i32", [0x5b], a, b),
  add: (a: F32, b: F32): F32 => operation("f32", [0x92], a, b),
  sub: (a: F32, b: F32): F32 => operation("f32", [0x93], a, b),
  mul: (a: F32, b: F32): F32 => operation("f32", [0x94], a, b),
  div: (a: F32, b: F32): F32 => operation("f32", [0x95], a, b),
  sqrt: (a: F32): F32 => operation("f32", [0x91], a),
  max: (a: F32, b: F32): F32 => operation("f32", [0x97], a, b),
  /** Rounds an f64. */
  demote: (a: F64): F32 => operation("f32", [0xb6], a),
  load: (address: I32, offset = 0): F32 => operation("f32", access(0x2a, 2, offset), address),
  store: (address: I32, value: F32, offset = 0): Statement =>
    effect(access(0x38, 2, offset), address, value),
};

/** Operations on 64-bit floats. */
export const f64 = {
  const: (value: number): F64 => operation("f64", [0x44, float64(value)]),
  add: (a: F64, b: F64): F64 => operation("f64", [0xa0], a, b),
  sub: (a: F64, b: F64): F64 => operation("f64", [0xa1], a, b),
  mul: (a: F64, b: F64): F64 => operation("f64", [0xa2], a, b),
  div: (a: F64, b: F64): F64 => operation("f64", [0xa3], a, b),
  sqrt: (a: F64): F64 => operation("f64", [0x9f], a),
  /** Widens an f32. */
  promote: (a: F32): F64 => operation("f64", [0xbb], a),
  load: (address: I32, offset = 0): F64 => operation("f64", access(0x2b, 3, offset), address),
  store: (address: I32, value: F64, offset = 0): Statement =>
    effect(access(0x39, 3, offset), address, value),
};
