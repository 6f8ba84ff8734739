import { fc, test as prop } from "@fast-check/vitest";
import { eigh, fromRows, identity, matrix, multiply, svd, transpose } from "@transmla/core/linalg";
import type { Matrix, Svd } from "@transmla/core/linalg";
import { describe, expect, test } from "vitest";

import {
  diagonal,
  distance,
  fill,
  generator,
  genericLinearAlgebra81,
  grcar,
  hasNormalisedSigns,
  hilbert,
  isDescending,
  kahan,
  lauchli,
  largest,
  numeric75,
  orthogonalityDefect,
  random,
  scaledBy,
  seeds,
  sizes,
  withSingularValues,
} from "./matrices.ts";

/** The largest relative violation of what an SVD promises; infinite when values are out of order. */
function defect(a: Matrix, { u, s, v }: Svd): number {
  const k = Math.min(a.rows, a.cols);
  const shapes = [u.rows, u.cols, s.length, v.rows, v.cols];
  if (shapes.join() !== [a.rows, k, k, a.cols, k].join()) return Infinity;
  if (!isDescending(s) || s.some((x) => !(x >= 0)) || !hasNormalisedSigns(u)) return Infinity;
  const product = multiply(multiply(u, diagonal(s)), v, { transposeB: true });
  const residual = distance(product, a) / (largest(a) || 1);
  return Math.max(residual, orthogonalityDefect(u), orthogonalityDefect(v));
}

const tolerance = 1e-12;

describe("svd of a matrix of any shape", () => {
  prop.prop([sizes, sizes, seeds])("random", (rows, cols, seed) => {
    const a = random(rows, cols, seed);
    expect(defect(a, svd(a))).toBeLessThan(tolerance);
  });

  prop.prop([sizes, sizes, seeds])(
    "rank-deficient: zero, equal and dependent columns",
    (rows, cols, seed) => {
      const rank = Math.floor(Math.min(rows, cols) / 3);
      const a = multiply(random(rows, rank, seed), random(rank, cols, seed + 1));
      const result = svd(a);
      expect(defect(a, result)).toBeLessThan(tolerance);
      const tail = result.s.subarray(rank);
      expect(Math.max(0, ...tail)).toBeLessThanOrEqual(1e-13 * (1 + largest(a)) * (rows + cols));
    },
  );

  prop.prop([sizes, sizes, seeds])(
    "sparse whole numbers, which break down exactly",
    (rows, cols, seed) => {
      const next = generator(seed);
      const a = fill(rows, cols, () => (next() < 0.3 ? Math.floor(5 * next()) - 2 : 0));
      expect(defect(a, svd(a))).toBeLessThan(tolerance);
    },
  );

  prop.prop([sizes, sizes, seeds])("graded over 300 orders of magnitude", (rows, cols, seed) => {
    const next = generator(seed);
    const scales = Array.from({ length: rows + cols }, () => 10 ** (150 * (next() - 0.5)));
    const a = fill(rows, cols, (i, j) => (2 * next() - 1) * scales[i]! * scales[rows + j]!);
    expect(defect(a, svd(a))).toBeLessThan(tolerance);
  });

  test.each([
    [0, 0],
    [0, 5],
    [5, 0],
    [1, 1],
    [1, 7],
    [7, 1],
    [90, 30],
    [30, 90],
    [64, 63],
    [79, 50],
    [80, 50],
  ])("%i×%i", (rows, cols) => {
    const a = random(rows, cols, 1);
    expect(defect(a, svd(a))).toBeLessThan(tolerance);
  });
});

describe("known singular values", () => {
  prop.prop([
    fc.constantFrom(1, 5, 30, 60, 70),
    fc.constantFrom(1, 5, 30, 60, 70),
    fc.constantFrom("repeated", "clustered", "graded", "half zero"),
    seeds,
  ])("of matrices of any shape", (rows, cols, kind, seed) => {
    const k = Math.min(rows, cols);
    const next = generator(seed);
    const value = {
      repeated: (i: number) => (i < k / 2 ? 2 : 1),
      clustered: () => 1 + 1e-13 * next(),
      graded: (i: number) => 10 ** (-i / 2),
      "half zero": (i: number) => (i < k / 2 ? 3 - i / k : 0),
    }[kind];
    const values = Float64Array.from({ length: k }, (_, i) => value(i))
      .toSorted()
      .toReversed();
    const a = withSingularValues(rows, cols, values, seed);
    const result = svd(a);
    expect(defect(a, result)).toBeLessThan(tolerance);
    expect(Math.max(...result.s.map((s, i) => Math.abs(s - values[i]!)))).toBeLessThan(
      1e-13 * values[0]!,
    );
  });

  test("Läuchli: small values keep the digits that AᵀA would lose", () => {
    const epsilon = 1e-9;
    const { s } = svd(lauchli(5, epsilon));
    expect(Math.abs(s[0]! - Math.sqrt(5 + epsilon ** 2))).toBeLessThan(1e-14);
    for (const small of s.subarray(1)) expect(Math.abs(small - epsilon)).toBeLessThan(1e-15);
  });

  test("Hilbert of order 12: the condition number is 1.7e16", () => {
    const a = hilbert(12);
    const result = svd(a);
    expect(defect(a, result)).toBeLessThan(tolerance);
    expect(result.s[0]).toBeCloseTo(1.795372059561997, 13);
    expect(result.s[11]).toBeLessThan(1e-15);
  });

  test("Kahan of order 60: nearly singular, no small diagonal entry", () => {
    const a = kahan(60);
    const result = svd(a);
    expect(defect(a, result)).toBeLessThan(tolerance);
    // The product of the singular values is the determinant.
    const logarithm = (values: ArrayLike<number>): number =>
      Array.from(values, Math.log).reduce((sum, x) => sum + x, 0);
    const pivots = Array.from({ length: 60 }, (_, i) => a.data[i * 61]!);
    expect(logarithm(result.s)).toBeCloseTo(logarithm(pivots), 6);
  });

  test("Grcar of order 50: far from normal", () => {
    const a = grcar(50);
    const result = svd(a);
    expect(defect(a, result)).toBeLessThan(tolerance);
    // From the eigenvalues of AᵀA, which are all well above rounding.
    const squares = eigh(multiply(a, a, { transposeA: true })).values;
    for (const [i, square] of squares.entries()) {
      expect(Math.abs(result.s[i]! - Math.sqrt(square))).toBeLessThan(1e-12);
    }
  });

  test("a zero matrix has zeros and an orthonormal basis", () => {
    const result = svd(matrix(40, 30));
    expect([...result.s]).toEqual(new Array(30).fill(0));
    expect(orthogonalityDefect(result.u)).toBeLessThan(tolerance);
    expect(orthogonalityDefect(result.v)).toBeLessThan(tolerance);
  });

  test("the identity of order 70", () => {
    const { s } = svd(identity(70));
    expect([...s]).toEqual(new Array(70).fill(1));
  });
});

describe("inputs that other libraries do not survive", () => {
  test.each(genericLinearAlgebra81)("GenericLinearAlgebra.jl #81 (%#)", (a) => {
    expect(defect(a, svd(a))).toBeLessThan(1e-14);
  });

  test("GenericLinearAlgebra.jl #81, perturbed", () => {
    for (let seed = 0; seed < 50; seed++) {
      const noise = random(8, 8, seed);
      const base = genericLinearAlgebra81[1]!;
      const a = fill(8, 8, (i, j) => base.data[8 * i + j]! + 0.01 * noise.data[8 * i + j]!);
      expect(defect(a, svd(a))).toBeLessThan(1e-13);
    }
  });

  test.each(numeric75)("numeric.js #75, #86 (%#)", (a) => {
    const result = svd(a);
    expect(defect(a, result)).toBeLessThan(1e-13);
    expect(result.s[1]! / result.s[0]!).toBeLessThan(1e-15);
  });

  test("pvfmm #5: a subnormal entry", () => {
    const a = fromRows([
      [7044.773469122021, 0, 0],
      [0, -1.284570679187241e-322, 57.2641137347702],
      [0, 0, 0],
    ]);
    expect(defect(a, svd(a))).toBeLessThan(1e-14);
  });

  test("MLweb #5: centred rows of opposite sign, a zero column", () => {
    const row = [-0.5, -0.5, 1, -1.5, 1.5, 0];
    const a = fromRows([row, row.map((x) => -x)]);
    expect(defect(a, svd(a))).toBeLessThan(1e-14);
  });
});

describe("scaling", () => {
  test("by a power of two changes the values by exactly that, and no vector", () => {
    const a = random(40, 30, 3);
    const plain = svd(a);
    for (const exponent of [-900, -300, 7, 900]) {
      const scaled = svd(scaledBy(2 ** exponent, a));
      expect(scaled.s).toEqual(plain.s.map((x) => x * 2 ** exponent));
      expect(scaled.u).toEqual(plain.u);
      expect(scaled.v).toEqual(plain.v);
    }
  });

  test.each([1e-320, 1e-150, 1e150, 1e306])("by %f", (factor) => {
    const a = scaledBy(
      factor,
      fromRows([
        [1, 2],
        [3, 4],
      ]),
    );
    const { s } = svd(a);
    expect(s[0]! / factor).toBeCloseTo(5.464985704219043, factor < 1e-300 ? 3 : 12);
    expect(s[1]! / factor).toBeCloseTo(0.365966190626258, factor < 1e-300 ? 3 : 12);
  });
});

test("a wide matrix has the factors of its transpose, exchanged", () => {
  const a = random(12, 31, 5);
  const [wide, tall] = [svd(a), svd(transpose(a))];
  expect(wide.s).toEqual(tall.s);
  expect(
    distance(
      fill(31, 12, (i, j) => Math.abs(wide.v.data[i * 12 + j]!)),
      fill(31, 12, (i, j) => Math.abs(tall.u.data[i * 12 + j]!)),
    ),
  ).toBe(0);
});

test("the input is not changed", () => {
  const a = random(30, 20, 6);
  const before = a.data.slice();
  svd(a);
  expect(a.data).toEqual(before);
});

test("order 260: panels, recursion and all kinds of merges", () => {
  const a = random(300, 260, 7);
  expect(defect(a, svd(a))).toBeLessThan(tolerance);
});

test.each([Number.NaN, Infinity, -Infinity])("%f is refused", (bad) => {
  const a = matrix(3, 2);
  a.data[3] = bad;
  expect(() => svd(a)).toThrow(`svd: entry (1, 1) is ${bad}; entries must be finite (3×2)`);
});
