import { slower } from "../goals.js";
import { random, requireNear, resultOf } from "../harness.js";

export const name = "svd";
export const title = "Thin singular value decompositions with vectors, f64, one thread";

export async function* cases(bench) {
  const own = await bench.own();
  const lapack = await bench.peers(["openblas"]);
  for (const [rows, cols] of [
    [512, 512],
    [1024, 1024],
    [4096, 512],
  ]) {
    const a = random(rows * cols, 1, Float64Array);
    const expected = await resultOf(own.svd(a, [rows, cols]));
    yield {
      title: `${rows} × ${cols}`,
      contenders: [own, ...lapack].map((library) => library.svd(a, [rows, cols])),
      check: (values) => requireNear(values, expected, 1e-11),
      goals: [slower("LAPACK", "OpenBLAS", 3, 2)],
    };
  }
}
