import { fc, test as prop } from "@fast-check/vitest";
import { eigh, fromRows, matrix, multiply } from "@transmla/core/linalg";
import type { Eigh, Matrix } from "@transmla/core/linalg";
import { describe, expect, test } from "vitest";

import {
  diagonal,
  distance,
  fill,
  generator,
  genericLinearAlgebra81,
  hasNormalisedSigns,
  hilbert,
  isDescending,
  largest,
  orthogonalityDefect,
  random,
  scaledBy,
  seeds,
  sizes,
  symmetrised,
  wilkinson,
  withSpectrum,
} from "./matrices.ts";

/** The largest relative violation of what an eigendecomposition promises. */
function defect(a: Matrix, { values, vectors }: Eigh): number {
  if (values.length !== a.rows || vectors.rows !== a.rows || vectors.cols !== a.rows)
    return Infinity;
  if (!isDescending(values) || !hasNormalisedSigns(vectors)) return Infinity;
  const product = multiply(multiply(vectors, diagonal(values)), vectors, { transposeB: true });
  return Math.max(distance(product, a) / (largest(a) || 1), orthogonalityDefect(vectors));
}

const tolerance = 1e-12;

describe("eigh of a symmetric matrix", () => {
  prop.prop([sizes, seeds])("random", (n, seed) => {
    const a = symmetrised(random(n, n, seed));
    expect(defect(a, eigh(a))).toBeLessThan(tolerance);
  });

  prop.prop([sizes, seeds])("sparse whole numbers, which break down exactly", (n, seed) => {
    const next = generator(seed);
    const a = symmetrised(fill(n, n, () => (next() < 0.2 ? 2 * Math.floor(5 * next()) - 4 : 0)));
    expect(defect(a, eigh(a))).toBeLessThan(tolerance);
  });

  prop.prop([sizes, seeds])("graded over 300 orders of magnitude", (n, seed) => {
    const next = generator(seed);
    const scales = Array.from({ length: n }, () => 10 ** (150 * (next() - 0.5)));
    const a = symmetrised(fill(n, n, (i, j) => (2 * next() - 1) * scales[i]! * scales[j]!));
    expect(defect(a, eigh(a))).toBeLessThan(tolerance);
  });

  prop.prop([
    fc.constantFrom(1, 4, 24, 25, 60, 90),
    fc.constantFrom("repeated", "clustered", "graded", "half zero", "both signs"),
    seeds,
  ])("with a known spectrum", (n, kind, seed) => {
    const next = generator(seed);
    const value = {
      repeated: (i: number) => (i < n / 2 ? 2 : -1),
      clustered: () => 1 + 1e-13 * next(),
      graded: (i: number) => 10 ** (-i / 2),
      "half zero": (i: number) => (i < n / 2 ? 3 - i / n : 0),
      "both signs": (i: number) => (i % 2 === 0 ? 1 : -1) * (1 + (i >> 1)),
    }[kind];
    const values = Float64Array.from({ length: n }, (_, i) => value(i))
      .toSorted()
      .toReversed();
    const a = withSpectrum(values, seed);
    const result = eigh(a);
    expect(defect(a, result)).toBeLessThan(tolerance);
    const scale = Math.max(...values.map(Math.abs));
    expect(Math.max(...result.values.map((x, i) => Math.abs(x - values[i]!)))).toBeLessThan(
      2e-14 * n * scale,
    );
  });

  test("projectors onto the spaces of repeated values are unique", () => {
    const values = [...new Array<number>(20).fill(2), ...new Array<number>(30).fill(1)];
    const a = withSpectrum(values, 4);
    const projector = (matrixOf: Matrix): Matrix => {
      const { vectors } = eigh(matrixOf);
      const first = fill(50, 20, (i, j) => vectors.data[i * 50 + j]!);
      return multiply(first, first, { transposeB: true });
    };
    // a = P + I with P the projector onto the space of 2.
    const expected = fill(50, 50, (i, j) => a.data[i * 50 + j]! - (i === j ? 1 : 0));
    expect(distance(projector(a), expected)).toBeLessThan(tolerance);
  });
});

describe("known matrices", () => {
  test("Wilkinson W21+: the two largest values agree to 14 digits", () => {
    const a = wilkinson(10);
    const result = eigh(a);
    expect(defect(a, result)).toBeLessThan(tolerance);
    expect(result.values[0]).toBeCloseTo(10.746194182903393, 13);
    expect(result.values[1]).toBeCloseTo(10.746194182903322, 13);
    expect(result.values[20]).toBeCloseTo(-1.125441522119985, 13);
  });

  test("Wilkinson matrices glued by a tiny coupling, order 147: clusters of seven", () => {
    const part = wilkinson(10);
    const a = fill(147, 147, (i, j) => {
      if (Math.floor(i / 21) === Math.floor(j / 21)) return part.data[(i % 21) * 21 + (j % 21)]!;
      return Math.abs(i - j) === 1 ? 1e-10 : 0;
    });
    const result = eigh(a);
    expect(defect(a, result)).toBeLessThan(tolerance);
    for (const x of result.values.subarray(0, 14)) expect(x).toBeCloseTo(10.74619418290334, 9);
  });

  test("the second difference of order 100", () => {
    const n = 100;
    const a = fill(n, n, (i, j) => [2, -1][Math.abs(i - j)] ?? 0);
    const { values } = eigh(a);
    for (const [i, value] of values.entries()) {
      const exact = 4 * Math.cos(((i + 1) * Math.PI) / (2 * (n + 1))) ** 2;
      expect(Math.abs(value - exact)).toBeLessThan(1e-13);
    }
  });

  test("Hilbert of order 10", () => {
    const a = hilbert(10);
    const result = eigh(a);
    expect(defect(a, result)).toBeLessThan(tolerance);
    expect(result.values[0]).toBeCloseTo(1.7519196702651776, 13);
    expect(result.values[9]).toBeCloseTo(1.0931538193797e-13, 15);
  });

  test("a graded tridiagonal matrix with tiny couplings", () => {
    const n = 60;
    const a = fill(n, n, (i, j) => {
      if (i === j) return 10 ** (-i / 3);
      return Math.abs(i - j) === 1 ? 1e-12 * 10 ** (-Math.max(i, j) / 3) : 0;
    });
    const result = eigh(a);
    expect(defect(a, result)).toBeLessThan(tolerance);
    for (const [i, value] of result.values.entries())
      expect(Math.abs(value - 10 ** (-i / 3))).toBeLessThan(1e-14);
  });

  test.each(genericLinearAlgebra81)("GenericLinearAlgebra.jl #81 (%#)", (a) => {
    expect(defect(a, eigh(a))).toBeLessThan(1e-14);
  });

  test("zero, one and multiples of the identity", () => {
    expect([...eigh(matrix(0, 0)).values]).toEqual([]);
    expect(eigh(fromRows([[-3]]))).toEqual({
      values: new Float64Array([-3]),
      vectors: fromRows([[1]]),
    });
    expect([...eigh(matrix(40, 40)).values]).toEqual(new Array(40).fill(0));
    expect([...eigh(diagonal(new Float64Array(40).fill(7))).values]).toEqual(new Array(40).fill(7));
  });
});

test("a tie in magnitude goes to the first entry", () => {
  const { vectors } = eigh(
    fromRows([
      [0, 1],
      [1, 0],
    ]),
  );
  const h = Math.SQRT1_2;
  expect(
    distance(
      vectors,
      fromRows([
        [h, h],
        [h, -h],
      ]),
    ),
  ).toBeLessThan(1e-15);
});

test("only the lower triangle is read, and the input is not changed", () => {
  const a = symmetrised(random(40, 40, 8));
  const lower = fill(40, 40, (i, j) => (j > i ? 99 : a.data[i * 40 + j]!));
  const before = lower.data.slice();
  expect(eigh(lower)).toEqual(eigh(a));
  expect(lower.data).toEqual(before);
});

test("scaling by a power of two changes the values by exactly that, and no vector", () => {
  const a = symmetrised(random(50, 50, 9));
  const plain = eigh(a);
  for (const exponent of [-900, -200, 900]) {
    const scaled = eigh(scaledBy(2 ** exponent, a));
    expect(scaled.values).toEqual(plain.values.map((x) => x * 2 ** exponent));
    expect(scaled.vectors).toEqual(plain.vectors);
  }
});

test("order 300: panels, recursion and all kinds of merges", () => {
  const a = symmetrised(random(300, 300, 10));
  expect(defect(a, eigh(a))).toBeLessThan(tolerance);
});

test("errors name the size and the entry", () => {
  expect(() => eigh(matrix(3, 2))).toThrow("eigh: the matrix must be square (3×2)");
  expect(() => eigh(fromRows([[Number.NaN]]))).toThrow(
    "eigh: entry (0, 0) is NaN; entries must be finite (1×1)",
  );
});
