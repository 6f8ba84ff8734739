import { fc, test as prop } from "@fast-check/vitest";
import {
  cholesky,
  eigh,
  eighHermitian,
  fromRows,
  identity,
  matrix,
  multiply,
  plainBlas,
  qr,
  solve,
  svd,
  transpose,
} from "@transmla/core/linalg";
import type { Blas, Block, Matrix } from "@transmla/core/linalg";
import { describe, expect, test } from "vitest";

import { transposed } from "../../src/linalg/blas.ts";
import { window } from "../../src/linalg/matrix.ts";
import { at, distance, fill, random, seeds, symmetrised } from "./matrices.ts";

describe("matrix", () => {
  test("holds the array it is given", () => {
    const data = new Float64Array([1, 2, 3, 4, 5, 6]);
    expect(matrix(2, 3, data).data).toBe(data);
    expect([...matrix(2, 2).data]).toEqual([0, 0, 0, 0]);
    expect([...identity(2, 3).data]).toEqual([1, 0, 0, 0, 1, 0]);
    expect([...transpose(matrix(2, 3, data)).data]).toEqual([1, 4, 2, 5, 3, 6]);
    expect(fromRows([])).toEqual(matrix(0, 0));
  });

  test("errors", () => {
    expect(() => matrix(2, 3, new Float64Array(5))).toThrow(
      "matrix: needs 6 entries, found 5 (2×3)",
    );
    expect(() => matrix(-1, 3)).toThrow("matrix: sizes must be whole numbers from 0 on (-1×3)");
    expect(() => matrix(2, 0.5)).toThrow("matrix: sizes must be whole numbers from 0 on (2×0.5)");
    expect(() => fromRows([[1, 2], [3]])).toThrow("fromRows: row 1 has 1 entries, row 0 has 2");
    expect(() => multiply(matrix(2, 3), matrix(2, 3))).toThrow(
      "multiply: inner sizes 3 and 2 differ (2×3 · 2×3)",
    );
    expect(() =>
      multiply(matrix(2, 3), matrix(2, 3), { transposeA: true, transposeB: true }),
    ).toThrow("multiply: inner sizes 2 and 3 differ (3×2 · 3×2)");
  });
});

const lengths = fc.constantFrom(0, 1, 2, 3, 4, 5, 7, 8, 63, 64, 65, 257);

function entry(a: Block, i: number, j: number): number {
  return a.data[a.offset + i * a.rowStride + j * a.colStride]!;
}

/** A window of a random array, with gaps, rows or columns contiguous. */
function randomBlock(rows: number, cols: number, byColumns: boolean, seed: number): Block {
  const [lines, stride] = byColumns ? [cols, rows + 2] : [rows, cols + 3];
  const { data } = random(1, 5 + lines * stride, seed);
  const [rowStride, colStride] = byColumns ? [1, stride] : [stride, 1];
  return { data: data.slice(), offset: 5, rows, cols, rowStride, colStride };
}

describe("plainBlas.gemm", () => {
  prop.prop(
    [
      lengths,
      lengths,
      lengths,
      fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()),
      fc.constantFrom(0, 1, -0.5),
      seeds,
    ],
    { numRuns: 100 },
  )(
    "agrees with its definition on windows of any layout",
    (m, n, k, [byA, byB, byC], beta, seed) => {
      const a = randomBlock(m, k, byA, seed);
      const b = randomBlock(k, n, byB, seed + 1);
      const c = randomBlock(m, n, byC, seed + 2);
      const expected = c.data.slice();
      for (let i = 0; i < m; i++) {
        for (let j = 0; j < n; j++) {
          let sum = 0;
          for (let p = 0; p < k; p++) sum += entry(a, i, p) * entry(b, p, j);
          expected[c.offset + i * c.rowStride + j * c.colStride] =
            -1.5 * sum + beta * entry(c, i, j);
        }
      }
      plainBlas.gemm(-1.5, a, b, beta, c);
      // The gaps between the lines are compared too: they must not change.
      expect(Math.max(0, ...c.data.map((x, i) => Math.abs(x - expected[i]!)))).toBeLessThan(
        1e-13 * (k + 1),
      );
    },
  );

  test("does not read c when beta is 0", () => {
    const c = fill(3, 3, () => Number.NaN);
    const window = { data: c.data, offset: 0, rows: 3, cols: 3, rowStride: 3, colStride: 1 };
    const one = { ...window, data: identity(3).data };
    plainBlas.gemm(1, one, one, 0, window);
    expect(c).toEqual(identity(3));
  });

  test("infinite entries do not turn into NaN", () => {
    const a = fromRows([
      [Infinity, 1],
      [1, 1],
    ]);
    const b = fromRows([[1], [1]]);
    expect([...multiply(a, b).data]).toEqual([Infinity, 2]);
    expect([...multiply(a, b, { transposeA: true }).data]).toEqual([Infinity, 2]);
    expect([
      ...multiply(
        a,
        fromRows([
          [1, 2],
          [1, 1],
        ]),
      ).data,
    ]).toEqual([Infinity, Infinity, 2, 3]);
  });
});

/** Kernels by definition on memory that is spoilt once the factorisation is over, as in an arena. */
function arena(): {
  readonly blas: Blas;
  readonly calls: () => number;
} {
  const arrays: Float64Array[] = [];
  let calls = 0;
  const blas: Blas = {
    withStorage(_, body) {
      const result = body();
      for (const array of arrays) array.fill(Number.NaN);
      return result;
    },
    allocate(length) {
      const array = new Float64Array(length);
      arrays.push(array);
      return array;
    },
    gemm(alpha, a, b, beta, c) {
      calls++;
      for (let i = 0; i < c.rows; i++) {
        for (let j = 0; j < c.cols; j++) {
          let sum = 0;
          for (let p = 0; p < a.cols; p++) sum += entry(a, i, p) * entry(b, p, j);
          const to = c.offset + i * c.rowStride + j * c.colStride;
          c.data[to] = alpha * sum + (beta === 0 ? 0 : beta * c.data[to]!);
        }
      }
    },
    multiplyBoth: (a, x, y, u, v) => plainBlas.multiplyBoth(a, x, y, u, v),
  };
  return { blas, calls: () => calls };
}

test("plainBlas.multiplyBoth is two products", () => {
  for (const [m, n] of [
    [1, 1],
    [7, 13],
    [16, 3],
  ] as const) {
    const a = { ...window(random(m, n + 2, 1)), offset: 1, cols: n };
    const [x, u] = [window(random(n, 1, 2)), window(random(m, 1, 3))];
    const both = [window(random(m, 1, 4)), window(random(n, 1, 5))] as const;
    const apart = both.map((to) => ({ ...to, data: to.data.slice() })) as unknown as typeof both;
    plainBlas.multiplyBoth(a, x, both[0], u, both[1]);
    plainBlas.gemm(1, a, x, 1, apart[0]);
    plainBlas.gemm(1, transposed(a), u, 1, apart[1]);
    expect(both[0].data).toEqual(apart[0].data);
    both[1].data.forEach((value, i) => expect(value).toBeCloseTo(apart[1].data[i]!, 12));
  }
});

describe("kernels supplied by a backend", () => {
  const a = random(60, 40, 1);
  const s = symmetrised(random(60, 60, 2));
  const cases: Record<string, (blas: Blas) => readonly Matrix[]> = {
    multiply: (blas) => [multiply(a, a, { transposeA: true, blas })],
    qr: (blas) => {
      const { q, r } = qr(a, { blas });
      return [q, r];
    },
    eigh: (blas) => [eigh(s, { blas }).vectors],
    eighHermitian: (blas) => [eighHermitian(s, matrix(60, 60), { blas }).vectors.re],
    svd: (blas) => {
      const { u, v } = svd(a, { blas });
      return [u, v];
    },
    solve: (blas) => [
      solve(
        fill(60, 60, (i, j) => at(s, i, j) + (i === j ? 60 : 0)),
        a,
        { blas },
      ),
    ],
    cholesky: (blas) => [
      cholesky(
        fill(70, 70, (i, j) => 2 ** -Math.abs(i - j)),
        { blas },
      ),
    ],
  };

  test.each(Object.keys(cases))("%s uses them, and keeps none of their memory", (name) => {
    const { blas, calls } = arena();
    const results = cases[name]!(blas);
    expect(calls()).toBeGreaterThan(0);
    for (const [i, expected] of cases[name]!(plainBlas).entries()) {
      expect(distance(results[i]!, expected)).toBeLessThan(1e-11);
    }
  });
});
