// The eigenvalue decompositions that conversions rest on.
import { fc } from "@fast-check/vitest";
import { eigh as eighOfTensor, tensor } from "@transmla/core";
import { eigh, eighHermitian, fromRows, type Matrix } from "@transmla/core/linalg";
import { expect } from "vitest";

import { EXACT, SINGLE } from "./errors.ts";
import {
  adjoint,
  complexMultiply,
  diagonal,
  unitary,
  type ComplexMatrix,
} from "./inputs/complex.ts";
import { seeds } from "./inputs/layers.ts";
import { Random } from "./inputs/random.ts";
import { backendProperty, property } from "./property.ts";

/** A spectrum, descending, as runs of equal or nearly equal values. */
interface Spectrum {
  readonly n: number;
  /** How many different values; the rest repeats them. */
  readonly distinct: number;
  /** The distance of the values within a run, relative to 1: zero for repeated eigenvalues. */
  readonly spread: number;
  readonly seed: number;
}

const spectra: fc.Arbitrary<Spectrum> = fc.record({
  n: fc.integer({ min: 1, max: 24 }),
  distinct: fc.integer({ min: 1, max: 24 }),
  spread: fc.constantFrom(0, 1e-14, 1e-8, 1e-3),
  seed: seeds,
});

/** The values of a spectrum: runs around whole numbers of either sign. */
function eigenvalues({ n, distinct, spread }: Spectrum, random: Random): number[] {
  const values = Array.from(
    { length: n },
    (_, i) => (i % distinct) - Math.floor(distinct / 3) + spread * random.uniform(),
  );
  return values.toSorted((a, b) => b - a);
}

/** `U diag(values) Uᴴ`. */
const compose = (U: ComplexMatrix, values: readonly number[]): ComplexMatrix =>
  complexMultiply(complexMultiply(U, diagonal(values)), adjoint(U));

const toRows = ({ rows, cols, data }: Matrix): number[][] =>
  Array.from({ length: rows }, (_, i) => [...data.subarray(i * cols, (i + 1) * cols)]);

/** Runs of values that lie within 0.1 of each other, as `[start, end)`. */
function clusters(values: readonly number[]): [number, number][] {
  const starts = values.flatMap((value, i) => (i === 0 || values[i - 1]! - value > 0.1 ? [i] : []));
  return starts.map((start, k) => [start, starts[k + 1] ?? values.length]);
}

/** The projector onto the span of some columns: the same for every basis of that space. */
function projector(
  { re, im }: ComplexMatrix,
  [start, end]: readonly [number, number],
): ComplexMatrix {
  const some = {
    re: re.map((row) => row.slice(start, end)),
    im: im.map((row) => row.slice(start, end)),
  };
  return complexMultiply(some, adjoint(some));
}

/** The largest difference of two entries. */
function difference(a: ComplexMatrix, b: ComplexMatrix): number {
  const parts = (i: number, j: number): number =>
    Math.max(Math.abs(a.re[i]![j]! - b.re[i]![j]!), Math.abs(a.im[i]![j]! - b.im[i]![j]!));
  return Math.max(...a.re.flatMap((row, i) => row.map((_, j) => parts(i, j))));
}

/** A decomposition that was found, and the one that the matrix was made of. */
interface Decompositions {
  readonly found: { readonly values: readonly number[]; readonly vectors: ComplexMatrix };
  readonly made: { readonly values: readonly number[]; readonly vectors: ComplexMatrix };
}

function expectSame({ found, made }: Decompositions, tolerance: number): void {
  const size = Math.max(1, ...made.values.map(Math.abs));
  const identity = diagonal(made.values.map(() => 1));
  expect(found.values).toEqual(found.values.toSorted((a, b) => b - a));
  expect(difference(diagonal(found.values), diagonal(made.values))).toBeLessThan(tolerance * size);
  expect(difference(complexMultiply(adjoint(found.vectors), found.vectors), identity)).toBeLessThan(
    tolerance,
  );
  const again = compose(found.vectors, found.values);
  expect(difference(again, compose(made.vectors, made.values))).toBeLessThan(tolerance * size);
  for (const cluster of clusters(made.values)) {
    const space = projector(found.vectors, cluster);
    expect(difference(space, projector(made.vectors, cluster))).toBeLessThan(tolerance * size);
  }
}

const realMatrix = (re: number[][]): ComplexMatrix => ({
  re,
  im: re.map((row) => row.map(() => 0)),
});

property(
  {
    id: "P46",
    statement:
      "a real symmetric matrix of any spectrum, clustered or repeated, has orthonormal eigenvectors that reproduce it, sorted eigenvalues, the projectors of its eigenspaces, and a positive largest component in each vector",
    tolerance: "1e-10 relative, f64",
  },
  [spectra],
  (spectrum) => {
    const random = new Random(spectrum.seed);
    const values = eigenvalues(spectrum, random);
    const U = unitary(random, values.length, "real");
    const result = eigh(fromRows(compose(U, values).re));

    const vectors = toRows(result.vectors);
    const found = { values: [...result.values], vectors: realMatrix(vectors) };
    expectSame({ found, made: { values, vectors: U } }, EXACT);
    for (let j = 0; j < values.length; j++) {
      const column = vectors.map((row) => row[j]!);
      expect(Math.max(...column)).toBeGreaterThan((1 - 1e-8) * Math.max(...column.map(Math.abs)));
    }
  },
);

property(
  {
    id: "P46",
    statement:
      "a complex Hermitian matrix of any spectrum, clustered or repeated, has unitary eigenvectors that reproduce it, sorted real eigenvalues, and the projectors of its eigenspaces; the largest component of each vector is real and positive",
    tolerance: "1e-10 relative, f64",
  },
  [spectra],
  (spectrum) => {
    const random = new Random(spectrum.seed);
    const values = eigenvalues(spectrum, random);
    const U = unitary(random, values.length, "complex");
    const { re, im } = compose(U, values);
    const result = eighHermitian(fromRows(re), fromRows(im));

    const vectors = { re: toRows(result.vectors.re), im: toRows(result.vectors.im) };
    expectSame(
      { found: { values: [...result.values], vectors }, made: { values, vectors: U } },
      EXACT,
    );
    for (let j = 0; j < values.length; j++) {
      const sizes = vectors.re.map((row, i) => Math.hypot(row[j]!, vectors.im[i]![j]!));
      const realParts = vectors.re.map((row) => row[j]!);
      expect(Math.max(...realParts)).toBeGreaterThan((1 - 1e-8) * Math.max(...sizes));
    }
  },
);

backendProperty(
  {
    id: "P46",
    statement:
      "the eigenvalue decomposition of a symmetric tensor reproduces it, sorted, with the projectors of its eigenspaces",
    tolerance: "1e-4 relative, f32",
    runs: 20,
  },
  [spectra],
  async (backend, spectrum) => {
    const random = new Random(spectrum.seed);
    const values = eigenvalues(spectrum, random);
    const n = values.length;
    const U = unitary(random, n, "real");
    using a = tensor(backend, compose(U, values).re.flat(), [n, n]);
    const result = await eighOfTensor(a);
    using valuesFound = result.values;
    using vectorsFound = result.vectors;

    const entries = await vectorsFound.read();
    const vectors = values.map((_, i) => [...entries.subarray(i * n, (i + 1) * n)]);
    const found = { values: [...(await valuesFound.read())], vectors: realMatrix(vectors) };
    expectSame({ found, made: { values, vectors: U } }, SINGLE);
  },
);
