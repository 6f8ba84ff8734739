import { fc, test as prop } from "@fast-check/vitest";
import {
  ArgumentError,
  dense,
  empty,
  scope,
  ShapeError,
  StateError,
  tensor,
  type Tensor,
} from "@transmla/core";
import { evaluate } from "@transmla/core/testing";
import { afterEach, describe, expect, test } from "vitest";

import { plainBackend } from "./plain-backend.ts";

const backend = plainBackend();
const ramp = (length: number): number[] => Array.from({ length }, (_, i) => i);

/** A ramp in a shape. */
const of = (...shape: number[]): Tensor =>
  tensor(backend, ramp(shape.reduce((a, b) => a * b, 1)), shape);

afterEach(() => {
  expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
});

/** Runs a body that throws, in a scope that frees its operands. */
const throwing = (body: () => unknown) => (): void => {
  scope<void>(() => void body());
};

describe("making tensors", () => {
  test("a tensor copies its values and knows its sizes", async () => {
    const x = of(2, 3);
    expect([x.rank, x.size, x.isDense, x.offset, String(x)]).toEqual([2, 6, true, 0, "f32[2,3]"]);
    expect(x.strides).toEqual([3, 1]);
    expect(x.backend).toBe(backend);
    expect(Array.from(await x.read())).toEqual(ramp(6));
    x.dispose();
  });

  test("16-bit arrays are bits for 16-bit dtypes and numbers for others", async () => {
    const bits = Uint16Array.of(0x3f80, 0x4000);
    const read = async (dtype: "bf16" | "f16" | "f32"): Promise<number[]> => {
      return Array.from((await evaluate(() => tensor(backend, bits, [2], dtype))).values);
    };
    expect(await read("bf16")).toEqual([1, 2]);
    expect(await read("f16")).toEqual([1.875, 2]);
    expect(await read("f32")).toEqual([0x3f80, 0x4000]);
  });

  test("a scalar has no axes and one element", async () => {
    const x = tensor(backend, [7], []);
    expect(String(x)).toBe("f32[]");
    expect(Array.from(await x.read())).toEqual([7]);
    x.dispose();
  });

  test("values must fill the shape", () => {
    expect(() => tensor(backend, [1, 2, 3], [2, 2])).toThrow(
      new ArgumentError("tensor: shape [2,2] needs 4 values, got 3"),
    );
    expect(() => tensor(backend, [1], [-1, -1])).toThrow(
      new ShapeError("empty: [-1,-1] is not a shape"),
    );
    expect(() => empty(backend, [2, 1.5])).toThrow(new ShapeError("empty: [2,1.5] is not a shape"));
  });
});

describe("views", () => {
  const shape = fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 4 });

  prop.prop([
    shape.chain((s) =>
      fc.tuple(
        fc.constant(s),
        fc.shuffledSubarray(
          s.map((_, i) => i),
          { minLength: s.length },
        ),
      ),
    ),
  ])("permute and its inverse give the tensor back", async ([shape, order]) => {
    const { values } = await evaluate(() => {
      const inverse = order.map((_, axis) => order.indexOf(axis));
      const permuted = of(...shape).permute(...order);
      expect(permuted.shape).toEqual(order.map((axis) => shape[axis]));
      return permuted.permute(...inverse);
    });
    expect(Array.from(values)).toEqual(ramp(values.length));
  });

  test("transpose exchanges the last two axes", async () => {
    const { shape, values } = await evaluate(() => of(2, 2, 3).transpose());
    expect(shape).toEqual([2, 3, 2]);
    expect(Array.from(values)).toEqual([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
  });

  test("slices of slices add their offsets; axes count from the end too", async () => {
    const { values } = await evaluate(() => of(4, 5).slice(0, 1, 4).slice(-1, 2, 4).slice(0, 1, 2));
    expect(Array.from(values)).toEqual([12, 13]);
  });

  test("expand repeats axes of size 1 and leading axes with stride 0", async () => {
    const x = scope(() => of(2, 1).expand([2, 2, 3]));
    expect(x.strides).toEqual([0, 1, 0]);
    expect(Array.from(await x.read())).toEqual([0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]);
    x.dispose();
  });

  test("reshape is a view of a dense tensor and a copy of any other", () => {
    const x = of(2, 3);
    const view = x.reshape([3, -1]);
    expect(view.shape).toEqual([3, 2]);
    expect(view.buffer).toBe(x.buffer);
    const copy = scope(() => x.transpose().reshape([6]));
    expect(copy.buffer).not.toBe(x.buffer);
    for (const tensor of [x, view, copy]) tensor.dispose();
  });

  test("reshape of a dense window keeps its offset", async () => {
    const { values } = await evaluate(() => of(3, 4).slice(0, 1, 3).reshape([2, 2, 2]));
    expect(Array.from(values)).toEqual([4, 5, 6, 7, 8, 9, 10, 11]);
  });

  test("dense returns a dense tensor itself", () => {
    const x = of(3);
    expect(dense(x)).toBe(x);
    x.dispose();
  });
});

describe("errors of views name the operand", () => {
  const messages: readonly (readonly [string, (x: Tensor) => unknown])[] = [
    ["permute: axis 2 does not exist (f32[2,3])", (x) => x.permute(0, 2)],
    ["permute: axis -3 does not exist (f32[2,3])", (x) => x.permute(0, -3)],
    ["permute: [0] does not name every axis once (f32[2,3])", (x) => x.permute(0)],
    ["permute: [1,-1] does not name every axis once (f32[2,3])", (x) => x.permute(1, -1)],
    ["transpose: needs two axes (f32[2])", (x) => x.slice(1, 0, 1).reshape([2]).transpose()],
    ["slice: axis 0.5 does not exist (f32[2,3])", (x) => x.slice(0.5, 0, 1)],
    ["slice: range 1..4 is not inside axis -1 of size 3 (f32[2,3])", (x) => x.slice(-1, 1, 4)],
    ["slice: range 2..1 is not inside axis 1 of size 3 (f32[2,3])", (x) => x.slice(1, 2, 1)],
    ["slice: range -1..1 is not inside axis 1 of size 3 (f32[2,3])", (x) => x.slice(1, -1, 1)],
    ["slice: range 0..1.5 is not inside axis 1 of size 3 (f32[2,3])", (x) => x.slice(1, 0, 1.5)],
    ["expand: does not broadcast to [2,4] (f32[2,3])", (x) => x.expand([2, 4])],
    ["expand: does not broadcast to [3] (f32[2,3])", (x) => x.expand([3])],
    ["expand: does not broadcast to [-1,2,3] (f32[2,3])", (x) => x.expand([-1, 2, 3])],
    ["reshape: 6 elements cannot become [4,2] (f32[2,3])", (x) => x.reshape([4, 2])],
    ["reshape: 6 elements cannot become [4,-1] (f32[2,3])", (x) => x.reshape([4, -1])],
    ["reshape: 6 elements cannot become [-1,-1] (f32[2,3])", (x) => x.reshape([-1, -1])],
    ["reshape: 6 elements cannot become [-2,-3] (f32[2,3])", (x) => x.reshape([-2, -3])],
    [
      "reshape: 0 elements cannot become [0,-1] (f32[0,3])",
      (x) => x.slice(0, 0, 0).reshape([0, -1]),
    ],
  ];
  test.each(messages)("%s", (message, body) => {
    expect(throwing(() => body(of(2, 3)))).toThrow(new ShapeError(message));
  });
});

describe("reading", () => {
  test("floats and integers have readers of their own", async () => {
    const [x, rows] = [of(2), tensor(backend, [1, -2], [2], "i32")];
    await expect(rows.read()).rejects.toThrow(
      new ShapeError("read: holds integers; call readIntegers() (i32[2])"),
    );
    await expect(x.readIntegers()).rejects.toThrow(
      new ShapeError("readIntegers: holds floats; call read() (f32[2])"),
    );
    expect(await rows.readIntegers()).toEqual(Int32Array.of(1, -2));
    x.dispose();
    rows.dispose();
  });

  test("unsigned integers stay unsigned", async () => {
    const { values } = await evaluate(() => tensor(backend, [2 ** 32 - 1], [1], "u32"));
    expect(values).toEqual(Uint32Array.of(2 ** 32 - 1));
  });

  test("empty windows are read without asking the backend, wherever they lie", async () => {
    const { shape, values } = await evaluate(() => of(2, 3).slice(0, 2, 2).slice(1, 2, 3));
    expect([shape, values]).toEqual([[0, 1], new Float32Array()]);
  });

  test("a failed read releases the dense copy it made", async () => {
    const broken = { ...plainBackend(), read: () => Promise.reject(new Error("device lost")) };
    const x = scope(() => tensor(broken, ramp(6), [2, 3]).transpose());
    await expect(x.read()).rejects.toThrow("device lost");
    x.dispose();
    expect(broken.memory().buffers).toBe(0);
  });
});

describe("disposal", () => {
  test("memory lives until the last view is disposed of, whatever the order", () => {
    const x = of(2, 3);
    const rows = x.slice(0, 0, 1);
    const again = rows.transpose();
    for (const tensor of [x, again, again, x]) tensor.dispose();
    expect(backend.memory().buffers).toBe(1);
    rows.dispose();
  });

  test("a disposed tensor cannot be used", async () => {
    const x = of(4, 8);
    x.dispose();
    const error = new StateError("tensor: used after dispose (f32[4,8])");
    expect(() => x.buffer).toThrow(error);
    expect(() => x.slice(0, 0, 1)).toThrow(error);
    expect(() => x.reshape([32])).toThrow(error);
    await expect(x.read()).rejects.toThrow(error);
  });

  test("`using` disposes at the end of the block", () => {
    {
      using x = of(3);
      expect(backend.memory().buffers).toBe(x.rank);
    }
    expect(backend.memory().buffers).toBe(0);
  });
});
