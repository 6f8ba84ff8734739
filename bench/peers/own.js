// This library through its public API.
import { cpuBackend } from "@transmla/backend-cpu";
import { matmul, softmax, tensor } from "@transmla/core";
import { eigh, svd } from "@transmla/core/linalg";

/** Contenders on one backend, named `who`. */
export async function own(options = { threads: 1 }, who = "transmla") {
  const backend = await cpuBackend(options);
  const contender = (run, operands) => ({
    who,
    run,
    read: (t) => t.read(),
    free: (t) => t.dispose(),
    dispose: () => operands.forEach((t) => t.dispose()),
  });
  return {
    backend,
    matmul(a, b, [m, k, n]) {
      const [x, y] = [tensor(backend, a, [m, k]), tensor(backend, b, [k, n])];
      return contender(() => matmul(x, y), [x, y]);
    },
    softmax(a, shape) {
      const x = tensor(backend, a, shape);
      return contender(() => softmax(x), [x]);
    },
    /** The values; the vectors are computed too. */
    eigh(data, n) {
      const matrix = { rows: n, cols: n, data };
      const run = () => eigh(matrix, { blas: backend.blas });
      return { who, run, read: ({ values }) => values };
    },
    svd(data, [rows, cols]) {
      const run = () => svd({ rows, cols, data }, { blas: backend.blas });
      return { who, run, read: ({ s }) => s };
    },
    dispose: () => backend.dispose(),
  };
}
