// svd-js: plain JavaScript, f64.
import { SVD } from "svd-js";

export const name = "svd-js";

export async function load() {
  return {
    svd(data, [rows, cols]) {
      const lines = Array.from({ length: rows }, (_, i) =>
        Array.from(data.subarray(i * cols, (i + 1) * cols)),
      );
      return { who: name, run: () => SVD(lines), read: ({ q }) => q.toSorted((x, y) => y - x) };
    },
  };
}
