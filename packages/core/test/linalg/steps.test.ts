import { fc, test as prop } from "@fast-check/vitest";
import { matrix, multiply, plainBlas } from "@transmla/core/linalg";
import type { Matrix } from "@transmla/core/linalg";
import { describe, expect, test } from "vitest";

import { block } from "../../src/linalg/blas.ts";
import { implicitQr } from "../../src/linalg/steps/bidiagonal.ts";
import {
  bidiagonalSingularVectors,
  tridiagonalEigenvectors,
} from "../../src/linalg/steps/divide-and-conquer.ts";
import { solveSecular } from "../../src/linalg/steps/secular.ts";
import { implicitQl } from "../../src/linalg/steps/tridiagonal.ts";
import { diagonal, distance, fill, generator, orthogonalityDefect, seeds } from "./matrices.ts";

const subject = { operation: "svd", shape: "64×64" };

/** Entries of a diagonal that have broken eigensolvers, of magnitude at most 1. */
const patterns: Record<string, (next: () => number, i: number, n: number) => number> = {
  uniform: (next) => 2 * next() - 1,
  zero: () => 0,
  one: () => 1,
  "rounding errors": (next) => 1e-16 * next(),
  "square root of rounding": (next) => 1e-8 * next(),
  "squares underflow": (next) => 1e-200 * next(),
  subnormal: (next) => 1e-310 * next(),
  "graded down": (_, i, n) => 10 ** ((-30 * i) / n),
  "graded up": (_, i, n) => 10 ** (-30 + (30 * i) / n),
  "graded at random": (next) => 10 ** (-200 * next()),
  "mostly zero": (next) => (next() < 0.1 ? next() : 0),
  "whole numbers": (next) => Math.floor(3 * next()) - 1,
  cluster: (next) => 1 - 1e-14 * next(),
  wilkinson: (_, i) => Math.abs((i % 21) - 10) / 10,
  "rare weak links": (_, i) => (i % 7 === 0 ? 1e-8 : 1),
};
const pattern = fc.constantFrom(...Object.keys(patterns));
const orders = fc.integer({ min: 1, max: 110 });

function entries(kind: string, n: number, seed: number): Float64Array {
  const next = generator(seed);
  return Float64Array.from({ length: n }, (_, i) => patterns[kind]!(next, i, n));
}

describe("divide and conquer", () => {
  prop.prop([pattern, pattern, orders, seeds], { numRuns: 120 })(
    "tridiagonal",
    (kindD, kindE, n, seed) => {
      const [d, e] = [entries(kindD, n, seed), entries(kindE, n - 1, seed + 1)];
      const a = fill(n, n, (i, j) => {
        if (i === j) return d[i]!;
        return Math.abs(i - j) === 1 ? e[Math.min(i, j)]! : 0;
      });
      const rows = tridiagonalEigenvectors(plainBlas, d, e, subject);
      const vectors = matrix(n, n, rows.data);
      const product = multiply(multiply(vectors, diagonal(d), { transposeA: true }), vectors);
      expect(distance(product, a)).toBeLessThan(1e-13);
      expect(orthogonalityDefect(vectors)).toBeLessThan(1e-13);
    },
  );

  prop.prop([pattern, pattern, orders, seeds], { numRuns: 120 })(
    "bidiagonal",
    (kindD, kindE, n, seed) => {
      const [d, e] = [entries(kindD, n, seed), entries(kindE, n - 1, seed + 1)];
      const a = fill(n, n, (i, j) => {
        if (i === j) return d[i]!;
        return j === i + 1 ? e[i]! : 0;
      });
      const { left, right } = bidiagonalSingularVectors(plainBlas, d, e, subject);
      const [u, v] = [matrix(n, n, left.data), matrix(n, n, right.data)];
      const product = multiply(multiply(u, diagonal(d), { transposeA: true }), v);
      expect(distance(product, a)).toBeLessThan(1e-13);
      expect(orthogonalityDefect(u)).toBeLessThan(1e-13);
      expect(orthogonalityDefect(v)).toBeLessThan(1e-13);
      expect(d.every((x) => x >= 0)).toBe(true);
    },
  );
});

describe("the secular equation", () => {
  prop.prop([fc.integer({ min: 1, max: 60 }), fc.constantFrom(0, 3, 7, 14), seeds])(
    "gives orthonormal vectors of a matrix next to the given one",
    (k, decades, seed) => {
      const next = generator(seed);
      const poles = Float64Array.from({ length: k }, () => 10 ** (-14 * next())).toSorted();
      for (let i = 1; i < k; i++) poles[i] = Math.max(poles[i]!, poles[i - 1]! + 4e-15);
      const z = Float64Array.from({ length: k }, () => 10 ** (-decades * next()));
      const gap = (j: number, o: number): number => poles[j]! - poles[o]!;
      const roots = solveSecular({ z, gap }, new Float64Array(k * k), subject);

      const vectors = normalisedRows(
        fill(k, k, (i, j) => roots.z[j]! / roots.differences[i * k + j]!),
      );
      expect(orthogonalityDefect(vectors)).toBeLessThan(1e-14);
      const values = poles.map((_, i) => poles[roots.origin[i]!]! + roots.shift[i]!);
      const product = multiply(multiply(vectors, diagonal(values), { transposeA: true }), vectors);
      const a = fill(k, k, (i, j) => z[i]! * z[j]! + (i === j ? poles[i]! : 0));
      expect(distance(product, a)).toBeLessThan(1e-13 * (1 + k));
    },
  );
});

function normalisedRows(a: Matrix): Matrix {
  return fill(a.rows, a.cols, (i, j) => {
    const row = a.data.subarray(i * a.cols, (i + 1) * a.cols);
    return row[j]! / Math.hypot(...row);
  });
}

describe("iterations end with an error at their cap", () => {
  const n = 3;
  const basis = (): ReturnType<typeof block> => block(new Float64Array(n * n), n, n);

  test("implicit QL", () => {
    const [d, e] = [new Float64Array([1, 2, 3]), new Float64Array([1, 1, 0])];
    expect(() => implicitQl(d, e, basis(), { ...subject, operation: "eigh" }, 1)).toThrow(
      "eigh: no convergence after 1 sweeps (64×64)",
    );
  });

  test("implicit QR", () => {
    const problem = {
      d: new Float64Array([1, 2, 3]),
      e: new Float64Array([1, 1, 0]),
      left: basis(),
      right: basis(),
    };
    expect(() => implicitQr(problem, subject, 1)).toThrow(
      "svd: no convergence after 1 sweeps (64×64)",
    );
  });

  test("the secular equation, whose poles are NaN", () => {
    const z = new Float64Array([1, 1]);
    expect(() => solveSecular({ z, gap: () => Number.NaN }, new Float64Array(4), subject)).toThrow(
      "svd: no convergence after 100 iterations of the secular equation (64×64)",
    );
  });
});
