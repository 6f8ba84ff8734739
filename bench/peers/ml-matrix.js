// ml-matrix: plain JavaScript, f64.
import { EigenvalueDecomposition, Matrix, SingularValueDecomposition } from "ml-matrix";

export const name = "ml-matrix";

export async function load() {
  const from = (data, rows, cols) => Matrix.from1DArray(rows, cols, data);
  return {
    eigh(data, n) {
      const a = from(data, n, n);
      const run = () => new EigenvalueDecomposition(a, { assumeSymmetric: true });
      return { who: name, run, read: (e) => e.realEigenvalues.toSorted((x, y) => y - x) };
    },
    svd(data, [rows, cols]) {
      const a = from(data, rows, cols);
      return { who: name, run: () => new SingularValueDecomposition(a), read: (s) => s.diagonal };
    },
  };
}
