import { slower } from "../goals.js";
import { random, requireNear } from "../harness.js";

export const name = "eigh";
export const title = "Eigenvalues and vectors of symmetric matrices, f64, one thread";

export async function* cases(bench) {
  const own = await bench.own();
  const lapack = await bench.peers(["openblas"]);
  for (const n of [512, 1024]) {
    const half = random(n * n, 1, Float64Array);
    const a = half.map((x, at) => x + half[(at % n) * n + Math.floor(at / n)]);
    const expected = await valuesOf(own.eigh(a, n));
    yield {
      title: `${n} × ${n}`,
      contenders: [own, ...lapack].map((library) => library.eigh(a, n)),
      check: (values) => requireNear(values, expected, 1e-11),
      goals: [slower("LAPACK", "OpenBLAS", 2.5, 1.5)],
    };
  }
}

/** Every contender must find these: they agree only where all are right. */
async function valuesOf(contender) {
  return contender.read(await contender.run());
}
