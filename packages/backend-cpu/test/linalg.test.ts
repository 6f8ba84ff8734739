import { fc, test as prop } from "@fast-check/vitest";
import { eigh, qr, StateError, svd, tensor, type Backend, type Tensor } from "@transmla/core";
import {
  eigh as eighOfMatrix,
  identity,
  plainBlas,
  type Blas,
  type Block,
} from "@transmla/core/linalg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { cpuBackend } from "../src/index.ts";
import { blasOn } from "../src/linalg/blas.ts";
import { Memory } from "../src/memory.ts";

describe("gemm in f64", () => {
  const memory = new Memory(2 ** 32);
  const blas = blasOn(memory, memory.simd!);
  const plain = (length: number): Float64Array => new Float64Array(length);

  /** Which step of a block is 1. */
  const order = fc.constantFrom("rows", "columns", "neither");

  function block(
    allocate: (length: number) => Float64Array,
    [rows, cols]: readonly [number, number],
    by: string,
    seed: number,
  ): Block {
    const gap = by === "neither" ? 2 : 1;
    const data = allocate(3 + (rows + 1) * (cols + 1) * gap);
    data.forEach((_, i) => (data[i] = Math.sin(i * 1.7 + seed)));
    const [rowStride, colStride] = by === "columns" ? [1, rows + 1] : [(cols + 1) * gap, gap];
    return { data, offset: 3, rows, cols, rowStride, colStride };
  }

  prop.prop(
    {
      m: fc.oneof(fc.constant(1), fc.integer({ min: 0, max: 110 })),
      k: fc.oneof(fc.constant(1), fc.integer({ min: 0, max: 280 })),
      n: fc.oneof(fc.constant(1), fc.integer({ min: 0, max: 50 })),
      orders: fc.tuple(order, order, order),
      inside: fc.boolean(),
      alpha: fc.constantFrom(1, -1, 0.5),
      beta: fc.constantFrom(0, 1, -2),
    },
    { numRuns: 150 },
  )("is that of plain TypeScript", ({ m, k, n, orders, inside, alpha, beta }) => {
    const run = (kernels: Blas): Float64Array => {
      const allocate = inside ? (length: number) => kernels.allocate(length) : plain;
      const c = block(allocate, [m, n], orders[2], 3);
      if (beta === 0) c.data.fill(Number.NaN, 3);
      const a = block(allocate, [m, k], orders[0], 1);
      kernels.gemm(alpha, a, block(allocate, [k, n], orders[1], 2), beta, c);
      return c.data.slice();
    };
    const actual = inside ? blas.withStorage(2 ** 18, () => run(blas)) : run(blas);
    const expected = run(plainBlas);
    expect(actual).toHaveLength(expected.length);
    const errors = actual.map((x, i) =>
      Object.is(x, expected[i]!) ? 0 : Math.abs(x - expected[i]!),
    );
    expect(Math.max(0, ...errors)).toBeLessThanOrEqual(1e-13 * (k + 4));
  });

  prop.prop(
    {
      m: fc.integer({ min: 1, max: 70 }),
      n: fc.integer({ min: 1, max: 70 }),
      inside: fc.boolean(),
    },
    { numRuns: 80 },
  )("products with a matrix and its transpose in one pass", ({ m, n, inside }) => {
    const run = (kernels: Blas): Float64Array[] => {
      const allocate = inside ? (length: number) => kernels.allocate(length) : plain;
      const vector = (length: number, seed: number): Block =>
        block(allocate, [length, 1], "columns", seed);
      const [y, v] = [vector(m, 4), vector(n, 5)];
      const a = block(allocate, [m, n], "rows", 1);
      kernels.multiplyBoth(a, vector(n, 2), y, vector(m, 3), v);
      return [y.data.slice(), v.data.slice()];
    };
    const actual = inside ? blas.withStorage(2 ** 18, () => run(blas)) : run(blas);
    run(plainBlas).forEach((expected, which) => {
      const errors = expected.map((x, i) => Math.abs(x - actual[which]![i]!));
      expect(Math.max(...errors)).toBeLessThanOrEqual(1e-12);
    });
  });

  test("storage beyond what was set aside is outside of the memory, and zero", () => {
    blas.withStorage(2 ** 20, () => {
      const [inside, outside] = [blas.allocate(2 ** 20), blas.allocate(10)];
      expect(inside.buffer).toBe(memory.f64.buffer);
      expect(outside).toEqual(new Float64Array(10));
      expect(outside.buffer).not.toBe(memory.f64.buffer);
    });
  });

  test("storage within storage is a part of it, and all is given back when the body throws", () => {
    const size = memory.f64.length;
    for (let i = 0; i < 3; i++) {
      const run = (): void =>
        blas.withStorage(size, () => {
          const first = blas.allocate(10);
          const second = blas.withStorage(10, () => blas.allocate(10));
          expect(second.byteOffset).toBe(first.byteOffset + 80);
          throw new Error("stop");
        });
      expect(run).toThrow("stop");
    }
    expect(memory.f64.length).toBeLessThan(4 * size);
  });

  test("a vector that is longer than a packed block", () => {
    const length = 60_000;
    blas.withStorage(4 * length, () => {
      const a = block((n) => blas.allocate(n), [1, length], "rows", 1);
      const x = block((n) => blas.allocate(n), [length, 1], "rows", 2);
      const [y, z] = [1, 2].map(() => ({ ...x, data: blas.allocate(1), offset: 0, rows: 1 }));
      blas.gemm(1, a, x, 0, y!);
      plainBlas.gemm(1, a, x, 0, z!);
      expect(Math.abs(y!.data[0]! - z!.data[0]!)).toBeLessThan(1e-10);
    });
  });

  test("a disposed backend", async () => {
    const backend = await cpuBackend();
    backend.dispose();
    expect(() => eighOfMatrix(identity(20), { blas: backend.blas })).toThrow(StateError);
  });
});

describe("factorisations", () => {
  let backend: Backend;
  beforeAll(async () => {
    backend = await cpuBackend();
  });
  afterAll(() => {
    expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
    backend.dispose();
  });

  const waves = (rows: number, cols: number): Float32Array => {
    return Float32Array.from({ length: rows * cols }, (_, i) => Math.sin(i * i * 0.7));
  };

  /** The largest difference between `left diag(s) right` and a matrix. */
  async function residual(
    a: Float32Array,
    [left, s, right]: readonly [Tensor, ArrayLike<number> | null, Tensor],
  ): Promise<number> {
    const [x, y] = [await left.read(), await right.read()];
    const [m, k] = left.shape as [number, number];
    const n = right.shape[1]!;
    let worst = 0;
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let p = 0; p < k; p++) sum += x[i * k + p]! * (s ? s[p]! : 1) * y[p * n + j]!;
        worst = Math.max(worst, Math.abs(sum - a[i * n + j]!));
      }
    }
    return worst;
  }

  test.each([
    [70, 40],
    [40, 70],
    [3, 2],
  ])("svd and qr of [%i,%i]", async (m, n) => {
    const data = waves(m, n);
    const a = tensor(backend, data, [m, n]);
    const { u, s, v } = await svd(a);
    const vt = v.transpose();
    expect(await residual(data, [u, await s.read(), vt])).toBeLessThan(1e-5);
    const { q, r } = await qr(a);
    expect(await residual(data, [q, null, r])).toBeLessThan(1e-5);
    for (const x of [a, u, s, v, vt, q, r]) x.dispose();
  });

  test("eigh of bf16", async () => {
    const n = 60;
    const data = Float32Array.from({ length: n * n }, (_, i) => {
      const [row, column] = [Math.floor(i / n), i % n];
      return ((row * column + row + column) % 13) / 4;
    });
    const a = tensor(backend, data, [n, n]);
    const { values, vectors } = await eigh(a);
    const transposed = vectors.transpose();
    expect(await residual(data, [vectors, await values.read(), transposed])).toBeLessThan(1e-4);
    for (const x of [a, values, vectors, transposed]) x.dispose();
  });

  test("a memory without room for working storage", async () => {
    const small = await cpuBackend({ maxBytes: 65_536 });
    const a = tensor(small, waves(40, 40), [40, 40]);
    const { u, s, v } = await svd(a);
    const vt = v.transpose();
    expect(await residual(waves(40, 40), [u, await s.read(), vt])).toBeLessThan(1e-5);
    small.dispose();
  });
});
