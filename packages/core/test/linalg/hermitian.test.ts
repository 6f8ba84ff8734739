import { test as prop } from "@fast-check/vitest";
import { eigh, eighHermitian, fromRows, matrix, multiply } from "@transmla/core/linalg";
import type { EighHermitian, Matrix } from "@transmla/core/linalg";
import { describe, expect, test } from "vitest";

import {
  at,
  diagonal,
  distance,
  fill,
  isDescending,
  orthogonalityDefect,
  random,
  seeds,
  sizes,
  symmetrised,
} from "./matrices.ts";

interface Complex {
  readonly re: Matrix;
  readonly im: Matrix;
}

/** [[re, -im], [im, re]], which multiplies as complex matrices do. */
function embed({ re, im }: Complex): Matrix {
  const [m, n] = [re.rows, re.cols];
  return fill(2 * m, 2 * n, (i, j) => {
    const index = (i % m) * n + (j % n);
    if (i < m === j < n) return re.data[index]!;
    return i < m ? -im.data[index]! : im.data[index]!;
  });
}

function randomHermitian(n: number, seed: number): Complex {
  const [re, im] = [random(n, n, seed), random(n, n, seed + 1)];
  return {
    re: symmetrised(re),
    im: fill(n, n, (i, j) => (im.data[i * n + j]! - im.data[j * n + i]!) / 2),
  };
}

/** A Hermitian matrix with these eigenvalues. */
function withSpectrum(values: readonly number[], seed: number): Complex {
  const n = values.length;
  const { vectors } = eighHermitian(...both(randomHermitian(n, seed)));
  const v = embed(vectors);
  const a = multiply(multiply(v, diagonal([...values, ...values])), v, { transposeB: true });
  return {
    re: fill(n, n, (i, j) => (a.data[2 * i * n + j]! + a.data[2 * j * n + i]!) / 2),
    im: fill(n, n, (i, j) => (a.data[2 * (i + n) * n + j]! - a.data[2 * (j + n) * n + i]!) / 2),
  };
}

function both({ re, im }: Complex): [Matrix, Matrix] {
  return [re, im];
}

function defect(a: Complex, { values, vectors }: EighHermitian): number {
  if (values.length !== a.re.rows || !isDescending(values)) return Infinity;
  const v = embed(vectors);
  const product = multiply(multiply(v, diagonal([...values, ...values])), v, { transposeB: true });
  return Math.max(distance(product, embed(a)), orthogonalityDefect(v));
}

describe("eighHermitian", () => {
  prop.prop([sizes, seeds])("random", (n, seed) => {
    const a = randomHermitian(n, seed);
    expect(defect(a, eighHermitian(...both(a)))).toBeLessThan(1e-12);
  });

  test.each([4, 30, 60])("repeated and zero eigenvalues, order %i", (n) => {
    const values = Array.from({ length: n }, (_, i) => Math.floor((3 * (n - 1 - i)) / n));
    const a = withSpectrum(values, n);
    const result = eighHermitian(...both(a));
    expect(defect(a, result)).toBeLessThan(1e-12);
    for (const [i, value] of result.values.entries()) expect(value).toBeCloseTo(values[i]!, 12);
  });

  test("the dominant entry of each vector is real and positive", () => {
    const { re, im } = eighHermitian(...both(randomHermitian(12, 3))).vectors;
    for (let j = 0; j < 12; j++) {
      const moduli = Array.from({ length: 12 }, (_, i) => Math.hypot(at(re, i, j), at(im, i, j)));
      const dominant = moduli.indexOf(Math.max(...moduli));
      expect(at(re, dominant, j)).toBeGreaterThan(0);
      expect(at(im, dominant, j)).toBe(0);
    }
  });

  test("of a real matrix it is eigh", () => {
    const a = symmetrised(random(40, 40, 5));
    const complex = eighHermitian(a, matrix(40, 40));
    const real = eigh(a);
    expect(Math.max(...complex.values.map((x, i) => Math.abs(x - real.values[i]!)))).toBeLessThan(
      1e-13,
    );
    expect(distance(complex.vectors.re, real.vectors)).toBeLessThan(1e-11);
    expect([...complex.vectors.im.data].every((x) => x === 0)).toBe(true);
  });

  test("only the lower triangle is read", () => {
    const { re, im } = randomHermitian(9, 6);
    const spoiled = [re, im].map((part) =>
      fill(9, 9, (i, j) => (j > i ? 7 : part.data[9 * i + j]!)),
    );
    expect(eighHermitian(spoiled[0]!, spoiled[1]!)).toEqual(eighHermitian(re, im));
  });

  test("extreme scales", () => {
    const { re, im } = randomHermitian(6, 7);
    const plain = eighHermitian(re, im);
    for (const exponent of [-900, 900]) {
      const scale = (a: Matrix): Matrix => fill(6, 6, (i, j) => a.data[6 * i + j]! * 2 ** exponent);
      const scaled = eighHermitian(scale(re), scale(im));
      expect(scaled.values).toEqual(plain.values.map((x) => x * 2 ** exponent));
      expect(scaled.vectors).toEqual(plain.vectors);
    }
  });

  test("errors", () => {
    expect(() => eighHermitian(matrix(2, 3), matrix(2, 3))).toThrow(
      "eighHermitian: the matrix must be square (2×3)",
    );
    expect(() => eighHermitian(matrix(2, 2), matrix(3, 3))).toThrow(
      "eighHermitian: sizes of real and imaginary part differ (2×2 · 3×3)",
    );
    expect(() => eighHermitian(matrix(1, 1), fromRows([[Infinity]]))).toThrow(
      "eighHermitian: entry (0, 0) is Infinity; entries must be finite (1×1)",
    );
  });
});
