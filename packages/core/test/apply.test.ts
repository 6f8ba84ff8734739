import {
  add,
  assign,
  BackendError,
  cast,
  concat,
  full,
  gather,
  type Kernel,
  type Kernels,
  matmul,
  type Operand,
  type PrimitiveOps,
  rmsNorm,
  scope,
  ShapeError,
  softmax,
  sum,
  tensor,
  type Tensor,
  unary,
} from "@transmla/core";
import { evaluate, expectClose } from "@transmla/core/testing";
import { describe, expect, test } from "vitest";

import { plainBackend } from "./plain-backend.ts";

const ramp = (length: number): number[] => Array.from({ length }, (_, i) => i);

type Memory = Uint8Array;

/** Primitives that note their operands before they do their work. */
function watched(...names: (keyof PrimitiveOps)[]): {
  kernels: Partial<Kernels<Memory>>;
  calls: Operand<Memory>[][];
} {
  const { kernels } = plainBackend();
  const calls: Operand<Memory>[][] = [];
  const watching = names.map((name) => {
    const kernel = kernels[name] as Kernel<Memory, object>;
    const watch: typeof kernel = (out, inputs, attributes) => {
      // The operands are tensors and may be disposed of after the call.
      const noted = [out, ...inputs].map(({ dtype, shape, strides, offset, buffer }) => {
        return { dtype, shape, strides, offset, buffer };
      });
      calls.push(noted);
      return kernel(out, inputs, attributes);
    };
    return [name, watch] as const;
  });
  return { kernels: Object.fromEntries(watching), calls };
}

describe("fused kernels", () => {
  const norm = { eps: 1e-6, offset: 0 };

  test("a kernel is used where it accepts, and core composes where it declines", async () => {
    const widths: number[] = [];
    const backend = plainBackend({
      rmsNorm: (out, [x]) => {
        if (x!.shape.at(-1)! % 2 === 1) return false;
        widths.push(x!.shape.at(-1)!);
        new Float32Array(out.buffer.buffer).fill(42);
        return undefined;
      },
    });
    const run = async (width: number): Promise<ArrayLike<number>> => {
      const ones = (...shape: number[]): Tensor => full(backend, shape, 1);
      return (await evaluate(() => rmsNorm(ones(2, width), ones(width), norm))).values;
    };
    expect(Array.from(await run(2))).toEqual([42, 42, 42, 42]);
    expectClose(await run(3), [1, 1, 1, 1, 1, 1], { dtype: "f32" });
    expect(widths).toEqual([2]);
    expect(backend.memory().buffers).toBe(0);
  });

  test("a declined kernel leaves nothing behind, also without a scope", () => {
    const backend = plainBackend({ softmax: () => false });
    const x = full(backend, [3], 1);
    const y = softmax(x);
    expect(backend.memory().buffers).toBe(2);
    x.dispose();
    y.dispose();
    expect(backend.memory().buffers).toBe(0);
  });

  test("a composition in half precision works in f32 and rounds once", async () => {
    const { kernels, calls } = watched("binary", "unary", "reduce");
    const { dtype } = await evaluate(() =>
      softmax(full(plainBackend(kernels), [2, 3], 0, 1, "bf16")),
    );
    expect(dtype).toBe("bf16");
    expect(new Set(calls.flat().map((operand) => operand.dtype))).toEqual(new Set(["f32"]));
  });
});

describe("errors", () => {
  test("operands on two backends are refused", () => {
    const [here, there] = [plainBackend(), { ...plainBackend(), name: "other" }];
    const [x, y] = [full(here, [2], 1), full(there, [3, 2], 1)];
    expect(() => add(x, y)).toThrow(
      new ShapeError("binary: operands are on plain and other (f32[3,2] · f32[3,2])"),
    );
    expect(() => {
      assign(y, x);
    }).toThrow(new ShapeError("copy: operands are on other and plain (f32[3,2])"));
    expect(() => concat([x, y.slice(0, 0, 1).reshape([2])], 0)).toThrow(
      new ShapeError("copy: operands are on plain and other (f32[2])"),
    );
    expect(here.memory().buffers).toBe(1);
  });

  test("a primitive that declines is an error, and what it should write into survives", () => {
    const backend = plainBackend({ unary: () => false, matmul: () => false });
    const x = full(backend, [2, 2], 1);
    expect(() => unary("exp", x)).toThrow(
      new ShapeError("unary: the plain backend declined it (f32[2,2])"),
    );
    expect(() => matmul(x, x)).toThrow(
      new ShapeError("matmul: the plain backend declined it (f32[2,2] · f32[2,2])"),
    );
    expect(backend.memory().buffers).toBe(1);

    const { kernels } = backend;
    const stubborn = { ...backend, kernels: { ...kernels, copy: (): false => false } };
    const [into, from] = [full(stubborn, [2, 2], 1), full(stubborn, [2, 2], 2)];
    const declined = new ShapeError("copy: the plain backend declined it (f32[2,2])");
    expect(() => {
      assign(into, from);
    }).toThrow(declined);
    expect(() => into.transpose().reshape([4])).toThrow(declined);
    expect(into.buffer).toBeDefined();
  });

  test("a kernel that throws leaves no result and no copies behind", () => {
    const broken = (): never => {
      throw new BackendError("matmul: the device was lost");
    };
    const backend = plainBackend({ matmul: broken, reduce: broken });
    const x = full(backend, [2, 3, 4], 1);
    const strided = x.permute(2, 0, 1);
    expect(() => matmul(strided, strided.transpose())).toThrow(BackendError);
    expect(() => sum(strided)).toThrow(BackendError);
    expect(backend.memory().buffers).toBe(1);
  });

  test("when memory runs out half way, what was allocated is released", () => {
    const backend = plainBackend();
    let left = 3; // for the operand, the result and the first of two copies
    const small = {
      ...backend,
      allocate: (bytes: number) => {
        if (left-- === 0) throw new BackendError("allocate: no memory");
        return backend.allocate(bytes);
      },
    };
    const x = scope(() => full(small, [2, 3, 4], 1).permute(2, 0, 1));
    expect(() => matmul(x, x.transpose())).toThrow(BackendError);
    expect(backend.memory().buffers).toBe(1);
  });
});

describe("the contract of views", () => {
  test("elementwise kernels see at most four axes, however many there are", async () => {
    const { kernels, calls } = watched("binary");
    const backend = plainBackend(kernels);
    const shape = [2, 3, 2, 2, 3, 2];
    const order = [5, 3, 1, 4, 2, 0];
    const { values } = await evaluate(() => {
      const x = tensor(backend, ramp(144), shape);
      return add(
        x.permute(...order),
        full(
          backend,
          order.map((axis) => shape[axis]!),
          0,
        ),
      );
    });
    const direct = await evaluate(() => tensor(backend, ramp(144), shape).permute(...order));
    expect(values).toEqual(direct.values);
    expect(calls.length).toBeGreaterThan(1);
    for (const operand of calls.flat()) expect(operand.shape.length).toBeLessThanOrEqual(4);
  });

  test("dense elementwise operands of any rank are one axis", async () => {
    const { kernels, calls } = watched("unary");
    await evaluate(() => unary("abs", full(plainBackend(kernels), [2, 1, 3, 2, 2], 1)));
    expect(calls.map((operands) => operands.map(({ shape }) => shape))).toEqual([[[24], [24]]]);
  });

  test("matmul gets matrices with a stride of 1, transposed ones without a copy", () => {
    const { kernels, calls } = watched("matmul");
    const backend = plainBackend(kernels);
    const x = full(backend, [2, 3, 4], 0, 1);
    const y = full(backend, [3, 5, 2], 0, 1);
    matmul(x.transpose(), y.permute(2, 0, 1));
    const [out, a, b] = calls[0]!;
    expect(a!.buffer).toBe(x.buffer);
    expect(b!.buffer).not.toBe(y.buffer);
    expect([out!.strides, a!.strides, b!.strides]).toEqual([
      [20, 5, 1],
      [12, 1, 4],
      [15, 5, 1],
    ]);
  });

  test("rows of reduce and indices of gather are dense, tables are taken as they are", async () => {
    const { kernels, calls } = watched("reduce", "gather");
    const backend = plainBackend(kernels);
    const x = full(backend, [2, 3], 0, 1);
    await evaluate(() => sum(x.transpose()));
    await evaluate(() =>
      gather(x.transpose(), cast(x, "i32").transpose().slice(0, 0, 1).reshape([2])),
    );
    const rows = scope(() => cast(x, "i32").slice(1, 0, 1).permute(1, 0));
    await evaluate(() => gather(x.transpose().expand([1, 3, 2]), rows));
    const lastStrides = calls.map((operands) => operands.map(({ strides }) => strides.at(-1)));
    expect(lastStrides).toEqual([
      [1, 1],
      [1, 3, 1],
      [1, 3, 1],
    ]);
  });

  test("out shares no buffer with an input, also between windows of one tensor", () => {
    const { kernels, calls } = watched("copy");
    const x = full(plainBackend(kernels), [8], 0, 1);
    scope(() => {
      assign(x.slice(0, 0, 4), x.slice(0, 4, 8));
    });
    expect(calls).toHaveLength(2);
    for (const [out, input] of calls) expect(out!.buffer).not.toBe(input!.buffer);
  });

  test("operands stay usable when a copy of them would be empty", () => {
    const x = scope(() => full(plainBackend(), [0, 3], 1).transpose());
    scope(() => sum(x));
    scope(() => matmul(x, x.transpose()));
    expect(x.buffer).toBeDefined();
  });
});
