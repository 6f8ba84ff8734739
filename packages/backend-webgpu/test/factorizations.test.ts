import { eigh, svd, tensor, type Backend, type Tensor } from "@transmla/core";
import * as host from "@transmla/core/linalg";
import type { Matrix } from "@transmla/core/linalg";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { hasAdapter } from "../../../test/adapter.ts";
import * as matrices from "../../core/test/linalg/matrices.ts";
import { webgpuBackend, type WebGpuBackend } from "../src/index.ts";
import { orthogonalise } from "../src/linalg/sweeps.ts";
import type { Workspace } from "../src/linalg/workspace.ts";

const { distance, orthogonalityDefect, random, withSingularValues, withSpectrum } = matrices;

/** The unit roundoff of f32. */
const roundoff = 2 ** -24;
/** Errors relative to the largest singular value, as README.md of the package states them. */
const ofValues = 16 * roundoff;
const ofEigenvalues = 32 * roundoff;
/** Products of singular vectors: cosines up to the tolerance of the sweeps, and the rounding of their lengths. */
const ofVectors = (size: number): number => 4 * roundoff * Math.max(8, Math.sqrt(size));

async function readMatrix(a: Tensor): Promise<Matrix> {
  return { rows: a.shape[0]!, cols: a.shape[1]!, data: Float64Array.from(await a.read()) };
}

function scaledColumns(a: Matrix, factors: ArrayLike<number>): Matrix {
  return { ...a, data: a.data.map((x, i) => x * factors[i % a.cols]!) };
}

/** Factorises on the backend and checks the factors against the matrix and core's f64 singular values. */
async function expectSvd(backend: Backend, a: Tensor): Promise<void> {
  const exact = await readMatrix(a);
  const factors = await svd(a);
  const [u, v] = [await readMatrix(factors.u), await readMatrix(factors.v)];
  const s = await factors.s.read();
  for (const each of [factors.u, factors.s, factors.v]) each.dispose();
  expect(backend.memory().buffers).toBe(1);

  const expected = host.svd(exact).s;
  const largest = expected[0]! || 1;
  const errors = expected.map((value, i) => Math.abs(s[i]! - value) / largest);
  expect(Math.max(...errors)).toBeLessThanOrEqual(ofValues);
  expect(s.every((value, i) => i === 0 || s[i - 1]! >= value)).toBe(true);
  const product = host.multiply(scaledColumns(u, s), v, { transposeB: true });
  expect(distance(product, exact) / largest).toBeLessThanOrEqual(ofValues);
  expect(orthogonalityDefect(u)).toBeLessThanOrEqual(ofVectors(s.length));
  expect(orthogonalityDefect(v)).toBeLessThanOrEqual(ofVectors(s.length));
}

async function expectEigh(backend: Backend, a: Matrix): Promise<void> {
  using input = tensor(backend, a.data, [a.rows, a.rows]);
  const exact = await readMatrix(input);
  const eigen = await eigh(input);
  const vectors = await readMatrix(eigen.vectors);
  const values = await eigen.values.read();
  for (const each of [eigen.values, eigen.vectors]) each.dispose();
  expect(backend.memory().buffers).toBe(1);

  const expected = host.eigh(exact).values;
  const largest = Math.max(...expected.map(Math.abs)) || 1;
  const errors = expected.map((value, i) => Math.abs(values[i]! - value) / largest);
  expect(Math.max(...errors)).toBeLessThanOrEqual(ofEigenvalues);
  const product = host.multiply(scaledColumns(vectors, values), vectors, { transposeB: true });
  expect(distance(product, exact) / largest).toBeLessThanOrEqual(ofEigenvalues);
  expect(orthogonalityDefect(vectors)).toBeLessThanOrEqual(ofVectors(a.rows));
}

const indices = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const powers = indices(64).map((i) => 10 ** (-i / 4));
const clusters = indices(64).map((i) => (i < 32 ? 1 + i * 1e-7 : 1e-3 + i * 1e-9));

/** Sizes about the blocks and panels of 16 and 32 columns, and spectra on which iterations have failed. */
const subjects: Readonly<Record<string, () => Matrix>> = {
  "one entry": () => random(1, 1, 1),
  "a row": () => random(1, 50, 1),
  "a column": () => random(50, 1, 1),
  "32 x 32": () => random(32, 32, 2),
  "33 x 33": () => random(33, 33, 3),
  "128 x 128": () => random(128, 128, 4),
  tall: () => random(300, 40, 5),
  wide: () => random(40, 300, 6),
  zero: () => matrices.fill(20, 10, () => 0),
  "zero columns": () => matrices.fill(20, 10, (i, j) => (j % 3 === 0 ? 0 : Math.sin(i * j))),
  identity: () => matrices.diagonal(indices(50).map(() => 1)),
  "rank 1, all columns equal": () => matrices.fill(50, 50, () => 1),
  "rank 20 of 64": () =>
    withSingularValues(
      80,
      64,
      indices(64).map((i) => (i < 20 ? 1 + i : 0)),
      7,
    ),
  graded: () => withSingularValues(80, 64, powers, 8),
  "graded, diagonal": () => matrices.diagonal(powers),
  clustered: () => withSingularValues(80, 64, clusters, 9),
  "two values, each repeated": () =>
    withSingularValues(
      64,
      64,
      indices(64).map((i) => (i < 32 ? 2 : 1)),
      10,
    ),
  Hilbert: () => matrices.hilbert(60),
  Kahan: () => matrices.kahan(60),
  Läuchli: () => matrices.lauchli(40, 1e-6),
  Grcar: () => matrices.grcar(50),
  "entries of 1e30": () => matrices.scaledBy(1e30, random(40, 40, 11)),
  "entries of 1e-30": () => matrices.scaledBy(1e-30, random(40, 40, 12)),
};

const symmetricSubjects: Readonly<Record<string, () => Matrix>> = {
  random: () => matrices.symmetrised(random(70, 70, 1)),
  "1 and -1": () => matrices.fill(2, 2, (i, j) => (i === j ? 0 : 1)),
  zero: () => matrices.fill(10, 10, () => 0),
  "minus identity": () => matrices.diagonal(indices(10).map(() => -1)),
  "signs, each repeated": () =>
    withSpectrum(
      indices(64).map((i) => (i % 2) * 2 - 1),
      2,
    ),
  graded: () => withSpectrum(powers, 3),
  Wilkinson: () => matrices.wilkinson(20),
  "entries of 1e30": () => matrices.scaledBy(1e30, matrices.symmetrised(random(20, 20, 4))),
  "entries of 1e-30": () => matrices.scaledBy(1e-30, matrices.symmetrised(random(20, 20, 5))),
};

describe.skipIf(!hasAdapter)("factorisations in shaders", () => {
  let backend: WebGpuBackend;
  beforeAll(async () => {
    backend = await webgpuBackend();
  });
  afterAll(() => {
    backend.dispose();
  });

  test.each(Object.keys(subjects))("svd: %s", async (name) => {
    const { rows, cols, data } = subjects[name]!();
    using a = tensor(backend, data, [rows, cols]);
    await expectSvd(backend, a);
  });

  test("svd of any shape, dtype and view", async () => {
    const size = fc.integer({ min: 1, max: 70 });
    const dtype = fc.constantFrom("f32" as const, "bf16" as const, "f16" as const);
    const property = fc.asyncProperty(size, size, dtype, fc.boolean(), async (m, n, type, flip) => {
      using a = tensor(backend, random(m, n, m * n).data, [m, n], type);
      using view = flip ? a.transpose() : a.slice(0, 0, m);
      await expectSvd(backend, view);
    });
    await fc.assert(property, { numRuns: 12 });
  });

  test.each(Object.keys(symmetricSubjects))("eigh: %s", async (name) => {
    await expectEigh(backend, symmetricSubjects[name]!());
  });

  test("the largest size that SVD_SIZE names", async () => {
    const n = Number(process.env["SVD_SIZE"] ?? 64);
    using a = tensor(backend, random(n, n, 13).data, [n, n]);
    await expectSvd(backend, a);
  }, 3_600_000);

  test("a sweep is 14 dispatches at 128 columns, and a read", async () => {
    using a = tensor(backend, random(128, 128, 14).data, [128, 128]);
    const before = backend.counts();
    const { u, s, v } = await svd(a);
    for (const each of [u, s, v]) each.dispose();
    const after = backend.counts();
    const sweeps = 10;
    expect(after.dispatches - before.dispatches).toBeLessThanOrEqual(14 * sweeps + 30);
    expect(after.submits - before.submits).toBeLessThanOrEqual(sweeps + 4);
    expect(after.bytesRead - before.bytesRead).toBeLessThanOrEqual(32 * sweeps + 4096 + 4 * 128);
  });

  test("workgroups of the size that suits a GPU give the same", async () => {
    const cooperative = await webgpuBackend({ workgroupMemory: true });
    using a = tensor(cooperative, random(50, 40, 15).data, [50, 40]);
    await expectSvd(cooperative, a);
    cooperative.dispose();
  }, 300_000); // a software adapter starts 256 invocations slowly

  test("entries that are not finite are refused", async () => {
    using a = tensor(backend, [1, 2, NaN, 4, 5, 6], [2, 3]);
    await expect(svd(a)).rejects.toThrow(
      "svd: an entry is NaN or infinite; entries must be finite (2×3)",
    );
    using b = tensor(backend, [1, Infinity, Infinity, 4], [2, 2]);
    await expect(eigh(b)).rejects.toThrow(
      "eigh: an entry is NaN or infinite; entries must be finite (2×2)",
    );
    expect(backend.memory().buffers).toBe(2);
  });
});

test("sweeps that never end are reported", async () => {
  const dispatches: number[] = [];
  const operand = (...shape: number[]) => ({ shape, buffer: null });
  const stuck = {
    gpu: { run: (...[, , , , groups]: readonly number[]) => dispatches.push(groups!) },
    lanes: 32,
    take: operand,
    read: (_: unknown, count: number) => Promise.resolve(new Float32Array(count).fill(0.5).buffer),
  } as unknown as Workspace;
  const columns = operand(64, 128) as unknown as Parameters<typeof orthogonalise>[1];
  await expect(
    orthogonalise(stuck, columns, 0, { operation: "svd", shape: "64×50" }),
  ).rejects.toThrow("svd: no convergence after 30 sweeps (64×50)");
  expect(dispatches).toHaveLength(30 * 6);
});
