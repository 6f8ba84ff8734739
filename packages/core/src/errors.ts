/**
 * The base of every error that these packages throw on purpose. The message reads
 * `operation: problem (operands)`.
 */
export class TransmlaError extends Error {
  /** @param message - `operation: problem (operands)`. */
  constructor(message: string) {
    super(message);
    this.name = new.target.name;
  }
}

/** Shapes, strides, dtypes or backends of the operands do not fit the operation. */
export class ShapeError extends TransmlaError {}

/** An argument or option has a value that the operation cannot use. */
export class ArgumentError extends TransmlaError {}

/** A file or a configuration does not have the form that its format demands. */
export class FormatError extends TransmlaError {}

/** The input is well-formed, but this library does not handle it. The message says what to do instead. */
export class UnsupportedError extends TransmlaError {}

/** A tensor, a cache or a model was used after it had been disposed of, or out of turn. */
export class StateError extends TransmlaError {}

/** An iterative algorithm did not converge within its cap. */
export class ConvergenceError extends TransmlaError {}

/** A backend ran out of memory or lost its device. */
export class BackendError extends TransmlaError {}

/**
 * Throws an error in the one grammar of this library.
 *
 * @param kind - The class of the error.
 * @param operation - What was attempted: `matmul`.
 * @param problem - What is wrong, with the numbers and what to do: `inner sizes 8 and 9 differ`.
 * @param operands - What it was attempted on; they print as `f32[4,8] · f32[9,3]`.
 *
 * @example
 * ```ts
 * import { fail, ShapeError } from "@transmla/core";
 * try {
 *   fail(ShapeError, "matmul", "inner sizes 8 and 9 differ", "f32[4,8]", "f32[9,3]");
 * } catch (error) {
 *   console.log(String(error)); // => "ShapeError: matmul: inner sizes 8 and 9 differ (f32[4,8] · f32[9,3])"
 * }
 * ```
 */
export function fail(
  kind: new (message: string) => TransmlaError,
  operation: string,
  problem: string,
  ...operands: readonly { toString(): string }[]
): never {
  const suffix = operands.length > 0 ? ` (${operands.map(String).join(" · ")})` : "";
  throw new kind(`${operation}: ${problem}${suffix}`);
}
