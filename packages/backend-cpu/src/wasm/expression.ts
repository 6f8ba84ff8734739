import { signed, type Code } from "./encoding.ts";

/** The types of values: integers and floats, and vectors of 16 bytes. */
export type ValueType = "i32" | "f32" | "f64" | "v128";

/** The number that stands for each type. */
export const typeCodes: Readonly<Record<ValueType, number>> = {
  i32: 0x7f,
  f32: 0x7d,
  f64: 0x7c,
  v128: 0x7b,
};

/** Instructions that leave one value. TypeScript checks its type where it is used. */
export interface Expression<T extends ValueType> {
  /** The type of the value. */
  readonly type: T;
  /** The instructions. */
  readonly code: Code;
}

/** Instructions that leave nothing. */
export interface Statement {
  /** Tells a statement from an expression. */
  readonly type: "none";
  /** The instructions. */
  readonly code: Code;
}

/** A 32-bit integer, or an address. */
export type I32 = Expression<"i32">;
/** A 32-bit float. */
export type F32 = Expression<"f32">;
/** A 64-bit float. */
export type F64 = Expression<"f64">;
/** A vector of 16 bytes. */
export type V128 = Expression<"v128">;
/** An integer; a number stands for the constant. */
export type Int = I32 | number;

/**
 * An instruction that takes operands from the stack and leaves a value.
 *
 * @param type - What it leaves.
 * @param opcode - The instruction, with what the format puts behind it.
 * @param operands - What it takes, in order.
 */
export function operation<T extends ValueType>(
  type: T,
  opcode: Code,
  ...operands: readonly Expression<ValueType>[]
): Expression<T> {
  return { type, code: [...operands.map(({ code }) => code), opcode] };
}

/**
 * An instruction that takes operands and leaves nothing.
 *
 * @param opcode - The instruction, with what the format puts behind it.
 * @param operands - What it takes, in order.
 */
export function effect(opcode: Code, ...operands: readonly Expression<ValueType>[]): Statement {
  return { type: "none", code: [...operands.map(({ code }) => code), opcode] };
}

/**
 * A constant where a number is given.
 *
 * @param value - An integer.
 */
export function int(value: Int): I32 {
  return typeof value === "number" ? operation("i32", [0x41, signed(value)]) : value;
}
