import { faster } from "../goals.js";
import { random, requireNear, resultOf } from "../harness.js";

export const name = "svd-javascript";
export const title = "Decompositions by JavaScript libraries, f64, one thread";

export async function* cases(bench) {
  const own = await bench.own();
  const numerical = await bench.peers(["ml-matrix", "svd-js", "numpy-ts"]);
  const n = bench.quick ? 256 : 512;
  const a = random(n * n, 1, Float64Array);
  const expected = await resultOf(own.svd(a, [n, n]));
  yield {
    title: `svd ${n} × ${n}`,
    contenders: [own, ...numerical].map((library) => library.svd(a, [n, n])),
    check: (values) => requireNear(values, expected, 1e-6),
    goals: [
      faster(
        "the best JavaScript peer",
        ["ml-matrix", "svd-js", "numpy-ts"],
        ...(bench.quick ? [] : [8, 12]),
      ),
    ],
  };
  const symmetric = a.map((x, at) => x + a[(at % n) * n + Math.floor(at / n)]);
  const values = await resultOf(own.eigh(symmetric, n));
  yield {
    title: `eigh ${n} × ${n}`,
    contenders: [own, ...numerical.filter(({ eigh }) => eigh)].map((library) =>
      library.eigh(symmetric, n),
    ),
    check: (found) => requireNear(found, values, 1e-6),
    goals: [faster("the best JavaScript peer", ["ml-matrix"])],
  };
}
