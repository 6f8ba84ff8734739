import {
  ArgumentError,
  BackendError,
  ConvergenceError,
  fail,
  FormatError,
  ShapeError,
  StateError,
  TransmlaError,
  UnsupportedError,
} from "@transmla/core";
import { expect, test } from "vitest";

test.each([
  { name: "ShapeError", Kind: ShapeError },
  { name: "ArgumentError", Kind: ArgumentError },
  { name: "FormatError", Kind: FormatError },
  { name: "UnsupportedError", Kind: UnsupportedError },
  { name: "StateError", Kind: StateError },
  { name: "ConvergenceError", Kind: ConvergenceError },
  { name: "BackendError", Kind: BackendError },
])("$name has its name, and one base with the others", ({ name, Kind }) => {
  const error = new Kind("operation: problem");
  expect(error).toBeInstanceOf(TransmlaError);
  expect(error).toBeInstanceOf(Error);
  expect(String(error)).toBe(`${name}: operation: problem`);
});

test("fail prints the operands after the problem", () => {
  expect(() => fail(ShapeError, "matmul", "inner sizes differ", "f32[4,8]", "f32[9,3]")).toThrow(
    new ShapeError("matmul: inner sizes differ (f32[4,8] · f32[9,3])"),
  );
  expect(() => fail(ShapeError, "matmul", "inner sizes differ")).toThrow(
    new ShapeError("matmul: inner sizes differ"),
  );
});
