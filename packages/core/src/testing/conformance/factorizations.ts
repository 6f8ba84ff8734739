import * as fc from "fast-check";
import { expect, test } from "vitest";

import { eigh, qr, svd } from "../../factorizations.ts";
import { matrix, multiply, type Matrix } from "../../linalg/matrix.ts";
import { scope } from "../../scope.ts";
import { tensor, type Tensor } from "../../tensor.ts";
import { anyFloat, samples, sizes } from "../arbitraries.ts";
import { consume, forAll, type Subject } from "../harness.ts";
import { elementsOf, place, type Sample } from "../samples.ts";

/**
 * Allowed error of a product of factors relative to the norm of the matrix, and of products of orthonormal columns: 64
 * roundings to f32. Factors of 65 columns that are computed in f32 err by less than half of that.
 */
const TOLERANCE = 2 ** -18;

/** `svd`, `qr` and `eigh`, whether the backend or core computes them. */
export function factorizationTests(subject: Subject): void {
  const size = sizes({ min: 1, max: 65 });
  const matrices = fc
    .tuple(size, size, anyFloat)
    .chain(([m, n, dtype]) => samples([m, n], dtype, { values: "coarse" }));

  test(
    "svd gives orthonormal vectors, descending values, and the matrix",
    forAll(matrices, (sample) => expectSvd(subject, sample), 10),
  );

  test(
    "qr gives orthonormal columns, a triangle, and the matrix",
    forAll(matrices, (sample) => expectQr(subject, sample), 10),
  );

  const squares = size.chain((n) => samples([n, n], "f32", { values: "coarse" }));
  test(
    "eigh gives orthonormal vectors, descending values, and the matrix",
    forAll(squares, (sample) => expectEigh(subject, sample), 10),
  );
}

async function expectSvd(subject: Subject, sample: Sample): Promise<void> {
  using a = scope(() => place(subject(), sample));
  const factors = await svd(a);
  const [u, s, v] = [await read(factors.u), await read(factors.s), await read(factors.v)];
  expectDescending(s.data);
  expectOrthonormal(u);
  expectOrthonormal(v);
  expectProduct(multiply(scaled(u, s.data), v, { transposeB: true }), matrixOf(sample));
}

async function expectQr(subject: Subject, sample: Sample): Promise<void> {
  using a = scope(() => place(subject(), sample));
  const factors = await qr(a);
  const [q, r] = [await read(factors.q), await read(factors.r)];
  expectOrthonormal(q);
  expect(r.data.every((x, i) => i % r.cols >= Math.floor(i / r.cols) || x === 0)).toBe(true);
  expectProduct(multiply(q, r), matrixOf(sample));
}

async function expectEigh(subject: Subject, sample: Sample): Promise<void> {
  const { data, rows } = matrixOf(sample);
  const symmetric = data.map((x, i) => x + data[(i % rows) * rows + Math.floor(i / rows)]!);
  using a = tensor(subject(), symmetric, [rows, rows]);
  const eigen = await eigh(a);
  const [values, vectors] = [await read(eigen.values), await read(eigen.vectors)];
  expectDescending(values.data);
  expectOrthonormal(vectors);
  const product = multiply(scaled(vectors, values.data), vectors, { transposeB: true });
  expectProduct(product, matrix(rows, rows, symmetric));
}

/** A tensor of one or two axes, which is disposed of. */
async function read(factor: Tensor): Promise<Matrix> {
  const { shape, values } = await consume(factor);
  return matrix(shape[0]!, shape[1] ?? 1, Float64Array.from(values));
}

function matrixOf(sample: Sample): Matrix {
  const { shape, values } = elementsOf(sample);
  return matrix(shape[0]!, shape[1]!, Float64Array.from(values));
}

function scaled(a: Matrix, factors: Float64Array): Matrix {
  return matrix(
    a.rows,
    a.cols,
    a.data.map((x, i) => x * factors[i % a.cols]!),
  );
}

function expectDescending(values: Float64Array): void {
  expect(values.every((x, i) => i === 0 || values[i - 1]! >= x)).toBe(true);
}

function expectOrthonormal(a: Matrix): void {
  const products = multiply(a, a, { transposeA: true });
  const errors = products.data.map((x, i) => {
    return Math.abs(x - (i % a.cols === Math.floor(i / a.cols) ? 1 : 0));
  });
  expect(Math.max(...errors)).toBeLessThanOrEqual(TOLERANCE);
}

function expectProduct(product: Matrix, expected: Matrix): void {
  const errors = product.data.map((x, i) => Math.abs(x - expected.data[i]!));
  expect(Math.max(...errors)).toBeLessThanOrEqual(TOLERANCE * Math.hypot(...expected.data));
}
