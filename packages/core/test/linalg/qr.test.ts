import { test as prop } from "@fast-check/vitest";
import { fromRows, identity, matrix, multiply, qr } from "@transmla/core/linalg";
import type { Matrix, Qr } from "@transmla/core/linalg";
import { expect, test } from "vitest";

import {
  at,
  distance,
  fill,
  hilbert,
  largest,
  orthogonalityDefect,
  random,
  seeds,
  sizes,
} from "./matrices.ts";

function isUpperTrapezoidal(r: Matrix): boolean {
  return r.data.every((x, index) => {
    const [i, j] = [Math.floor(index / r.cols), index % r.cols];
    if (j < i) return x === 0;
    return j > i || x >= 0;
  });
}

function defect(a: Matrix, { q, r }: Qr): number {
  const k = Math.min(a.rows, a.cols);
  if ([q.rows, q.cols, r.rows, r.cols].join() !== [a.rows, k, k, a.cols].join()) return Infinity;
  if (!isUpperTrapezoidal(r)) return Infinity;
  return Math.max(distance(multiply(q, r), a) / (largest(a) || 1), orthogonalityDefect(q));
}

prop.prop([sizes, sizes, seeds])("random matrices of any shape", (rows, cols, seed) => {
  const a = random(rows, cols, seed);
  expect(defect(a, qr(a))).toBeLessThan(1e-13);
});

prop.prop([sizes, sizes, seeds])("rank-deficient matrices", (rows, cols, seed) => {
  const rank = Math.floor(Math.min(rows, cols) / 2);
  const a = multiply(random(rows, rank, seed), random(rank, cols, seed + 1));
  expect(defect(a, qr(a))).toBeLessThan(1e-13);
});

test("a zero matrix has an orthonormal q", () => {
  const { q, r } = qr(matrix(5, 3));
  expect(distance(q, identity(5, 3))).toBe(0);
  expect(largest(r)).toBe(0);
});

test("columns may differ by 400 orders of magnitude", () => {
  const a = random(40, 30, 1);
  const scale = (j: number): number => 10 ** (200 - (400 * j) / 29);
  const scaled = fill(40, 30, (i, j) => at(a, i, j) * scale(j));
  const { q, r } = qr(scaled);
  expect(orthogonalityDefect(q)).toBeLessThan(1e-13);
  const unscaled = fill(30, 30, (i, j) => at(r, i, j) / scale(j));
  expect(distance(multiply(q, unscaled), a)).toBeLessThan(1e-13);
});

test("subnormal columns keep q orthogonal", () => {
  const a = fill(6, 4, (i, j) => (j === 2 ? 5e-324 * (i + 1) : 1 / (i + j + 1)));
  expect(orthogonalityDefect(qr(a).q)).toBeLessThan(1e-14);
});

test("Hilbert of order 40: q is orthogonal though a is singular to working precision", () => {
  expect(defect(hilbert(40), qr(hilbert(40)))).toBeLessThan(1e-13);
});

test("errors and purity", () => {
  expect(() => qr(fromRows([[1, Number.NaN]]))).toThrow(
    "qr: entry (0, 1) is NaN; entries must be finite (1×2)",
  );
  const a = random(20, 10, 2);
  const before = a.data.slice();
  qr(a);
  expect(a.data).toEqual(before);
});
