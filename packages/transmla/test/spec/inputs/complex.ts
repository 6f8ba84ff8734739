import type { Random } from "./random.ts";

/** A complex matrix by rows. */
export interface ComplexMatrix {
  readonly re: number[][];
  readonly im: number[][];
}

/** Entry (i, j) from a function of i and j that returns real and imaginary part. */
function complexMatrix(
  rows: number,
  cols: number,
  entry: (i: number, j: number) => [number, number],
): ComplexMatrix {
  const entries = Array.from({ length: rows }, (_, i) =>
    Array.from({ length: cols }, (_, j) => entry(i, j)),
  );
  return {
    re: entries.map((row) => row.map(([re]) => re)),
    im: entries.map((row) => row.map(([, im]) => im)),
  };
}

/** `a b`. */
export function complexMultiply(a: ComplexMatrix, b: ComplexMatrix): ComplexMatrix {
  return complexMatrix(a.re.length, b.re[0]!.length, (i, j) => {
    let [re, im] = [0, 0];
    for (let k = 0; k < b.re.length; k++) {
      re += a.re[i]![k]! * b.re[k]![j]! - a.im[i]![k]! * b.im[k]![j]!;
      im += a.re[i]![k]! * b.im[k]![j]! + a.im[i]![k]! * b.re[k]![j]!;
    }
    return [re, im];
  });
}

/** `aᴴ`. */
export function adjoint(a: ComplexMatrix): ComplexMatrix {
  return complexMatrix(a.re[0]!.length, a.re.length, (i, j) => [a.re[j]![i]!, -a.im[j]![i]!]);
}

/** Real numbers on the diagonal. */
export function diagonal(values: readonly number[]): ComplexMatrix {
  return complexMatrix(values.length, values.length, (i, j) => [i === j ? values[i]! : 0, 0]);
}

/** A random unitary matrix, or a real orthogonal one: normal numbers, orthonormalised twice by Gram and Schmidt. */
export function unitary(random: Random, n: number, field: "real" | "complex"): ComplexMatrix {
  const draw = (): [number, number] => [
    random.gaussian(),
    field === "real" ? 0 : random.gaussian(),
  ];
  const { re, im } = complexMatrix(n, n, draw);
  for (let i = 0; i < n; i++) {
    for (let pass = 0; pass < 2; pass++) {
      for (let j = 0; j < i; j++) {
        let [overlapRe, overlapIm] = [0, 0]; // <row j, row i>
        for (let k = 0; k < n; k++) {
          overlapRe += re[j]![k]! * re[i]![k]! + im[j]![k]! * im[i]![k]!;
          overlapIm += re[j]![k]! * im[i]![k]! - im[j]![k]! * re[i]![k]!;
        }
        for (let k = 0; k < n; k++) {
          re[i]![k]! -= overlapRe * re[j]![k]! - overlapIm * im[j]![k]!;
          im[i]![k]! -= overlapRe * im[j]![k]! + overlapIm * re[j]![k]!;
        }
      }
      const norm = Math.hypot(...re[i]!, ...im[i]!);
      re[i] = re[i]!.map((value) => value / norm);
      im[i] = im[i]!.map((value) => value / norm);
    }
  }
  return { re, im };
}

/** A matrix with the inverse of its adjoint: `U diag(s) Vᴴ` and `U diag(1/s) Vᴴ`. */
export interface Invertible {
  readonly matrix: ComplexMatrix;
  /** `matrix^-H`. */
  readonly inverseAdjoint: ComplexMatrix;
  /** The ratio of the largest and the smallest singular value. */
  readonly condition: number;
}

/** The kinds of matrices that are interesting as changes of basis. */
export type MatrixKind = "any" | "real" | "unitary" | "orthogonal" | "phases" | "permutation";

/** A random invertible matrix of condition 1000 at most. */
export function invertible(random: Random, n: number, kind: MatrixKind): Invertible {
  if (kind === "phases") {
    const angles = Array.from({ length: n }, () => 2 * Math.PI * random.uniform());
    const matrix = complexMatrix(n, n, (i, j) =>
      i === j ? [Math.cos(angles[i]!), Math.sin(angles[i]!)] : [0, 0],
    );
    return { matrix, inverseAdjoint: matrix, condition: 1 };
  }
  if (kind === "permutation") {
    const keys = random.gaussians(n);
    const order = keys.map((_, i) => i).toSorted((a, b) => keys[a]! - keys[b]!);
    const matrix = complexMatrix(n, n, (i, j) => [order[i] === j ? 1 : 0, 0]);
    return { matrix, inverseAdjoint: matrix, condition: 1 };
  }
  const field = kind === "real" || kind === "orthogonal" ? "real" : "complex";
  const isometry = kind === "unitary" || kind === "orthogonal";
  const [u, v] = [unitary(random, n, field), unitary(random, n, field)];
  const s = Array.from({ length: n }, () => (isometry ? 1 : 10 ** (3 * random.uniform() - 1.5)));
  return {
    matrix: complexMultiply(complexMultiply(u, diagonal(s)), adjoint(v)),
    inverseAdjoint: complexMultiply(
      complexMultiply(u, diagonal(s.map((value) => 1 / value))),
      adjoint(v),
    ),
    condition: Math.max(...s) / Math.min(...s),
  };
}
