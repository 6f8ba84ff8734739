// This library through its public API.
import { cpuBackend } from "@transmla/backend-cpu";
import { attention, matmul, softmax, tensor } from "@transmla/core";
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
    /** Causal, of the last `tokens` of so many positions, by grouped heads of 64 numbers. */
    attention(numbers, { tokens, positions, heads, kvHeads }) {
      const part = (rows, n) => tensor(backend, numbers.subarray(0, rows * n * 64), [rows, n, 64]);
      const [q, k, v] = [part(tokens, heads), part(positions, kvHeads), part(positions, kvHeads)];
      const attributes = { scale: 0.125, causal: true, window: undefined, cap: undefined };
      return contender(() => attention(q, k, v, attributes), [q, k, v]);
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
