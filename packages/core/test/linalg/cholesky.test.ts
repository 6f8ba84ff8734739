import { fc, test as prop } from "@fast-check/vitest";
import { cholesky, fromRows, identity, matrix, multiply, solve } from "@transmla/core/linalg";
import type { Matrix } from "@transmla/core/linalg";
import { describe, expect, test } from "vitest";

import { distance, fill, hilbert, largest, random, seeds, withSpectrum } from "./matrices.ts";

const orders = fc.constantFrom(0, 1, 2, 7, 63, 64, 65, 129);

function positiveDefinite(n: number, seed: number): Matrix {
  const g = random(n, n, seed);
  const a = multiply(g, g, { transposeB: true });
  for (let i = 0; i < n; i++) a.data[i * n + i]! += 1;
  return a;
}

describe("cholesky", () => {
  prop.prop([orders, seeds], { numRuns: 30 })(
    "l lᵀ is the matrix, l is lower triangular",
    (n, seed) => {
      const a = positiveDefinite(n, seed);
      const l = cholesky(a);
      expect(distance(multiply(l, l, { transposeB: true }), a)).toBeLessThan(
        1e-14 * (n + 1) * (largest(a) + 1),
      );
      expect(l.data.every((x, index) => index % n <= Math.floor(index / n) || x === 0)).toBe(true);
    },
  );

  test("only the lower triangle is read, and the input is not changed", () => {
    const a = positiveDefinite(70, 1);
    const lower = fill(70, 70, (i, j) => (j > i ? 99 : a.data[i * 70 + j]!));
    const before = lower.data.slice();
    expect(cholesky(lower)).toEqual(cholesky(a));
    expect(lower.data).toEqual(before);
  });

  test("a pivot that is not positive is named", () => {
    expect(() =>
      cholesky(
        fromRows([
          [4, 2],
          [2, 0.5],
        ]),
      ),
    ).toThrow("cholesky: pivot 1 is -0.5; the matrix must be positive definite (2×2)");
    expect(() => cholesky(matrix(2, 2))).toThrow(
      "cholesky: pivot 0 is 0; the matrix must be positive definite (2×2)",
    );
    const late = fill(100, 100, (i, j) => (i === j ? 1 - Number(i === 80) : 0));
    expect(() => cholesky(late)).toThrow(
      "cholesky: pivot 80 is 0; the matrix must be positive definite (100×100)",
    );
    expect(() => cholesky(matrix(2, 3))).toThrow("cholesky: the matrix must be square (2×3)");
  });
});

describe("solve", () => {
  prop.prop([orders, fc.constantFrom(0, 1, 2, 33), seeds], { numRuns: 30 })(
    "finds x from a x",
    (n, columns, seed) => {
      const a = positiveDefinite(n, seed);
      const x = random(n, columns, seed + 1);
      const b = multiply(a, x);
      const before = b.data.slice();
      expect(distance(solve(a, b), x)).toBeLessThan(1e-11 * (n + 1));
      expect(b.data).toEqual(before);
    },
  );

  test("the residual is small though the matrix is ill-conditioned", () => {
    const a = hilbert(10);
    const b = fill(10, 1, () => 1);
    const x = solve(a, b);
    expect(distance(multiply(a, x), b) / largest(x)).toBeLessThan(1e-15);
  });

  test("a ridge makes a singular problem solvable", () => {
    const a = withSpectrum([3, 2, 0, 0], 2);
    const ridged = fill(4, 4, (i, j) => a.data[4 * i + j]! + (i === j ? 0.5 : 0));
    const inverse = solve(ridged, identity(4));
    expect(distance(multiply(ridged, inverse), identity(4))).toBeLessThan(1e-14);
  });

  test("errors name the operation", () => {
    expect(() => solve(identity(3), matrix(2, 1))).toThrow(
      "solve: numbers of rows 3 and 2 differ (3×3 · 2×1)",
    );
    expect(() => solve(matrix(2, 3), matrix(2, 1))).toThrow(
      "solve: the matrix must be square (2×3)",
    );
    expect(() => solve(fromRows([[-1]]), matrix(1, 1))).toThrow(
      "solve: pivot 0 is -1; the matrix must be positive definite (1×1)",
    );
    expect(() => solve(identity(1), fromRows([[Infinity]]))).toThrow(
      "solve: entry (0, 0) is Infinity; entries must be finite (1×1)",
    );
  });
});
