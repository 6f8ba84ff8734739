import { faster, javascriptPeers } from "../goals.js";
import { checkProduct, random } from "../harness.js";

export const name = "matmul";
export const title = "Matrix products, f32, one thread";

const sizes = [64, 128, 512, 1024, 2048];

export async function* cases(bench) {
  const own = await bench.own({ threads: 1, revectorize: bench.revectorize });
  const peers = await bench.peers(["tfjs", "jax", "ort-web", "numpy-ts", "ort-node", "openblas"]);
  const modern = bench.node >= 22;
  for (const n of sizes.filter((size) => !bench.quick || size <= 1024)) {
    const [a, b] = [random(n * n, 1), random(n * n, 2)];
    const shape = [n, n, n];
    const isLarge = n >= 512;
    const required = modern ? (n === 512 ? 1.3 : 1.4) : 1.1;
    yield {
      title: `${n} × ${n} × ${n}`,
      contenders: [own, ...peers].map((library) => library.matmul(a, b, shape)),
      check: checkProduct(a, b, shape),
      rate: { unit: "GFLOP/s", perRun: 2e-9 * n ** 3 },
      goals: [
        faster(
          "the best JavaScript peer",
          javascriptPeers,
          isLarge ? required : undefined,
          isLarge ? (bench.revectorize ? 2 : required) : undefined,
        ),
        faster("OpenBLAS", ["OpenBLAS"], isLarge ? (modern ? 0.32 : 0.24) : undefined, 0.55),
      ],
    };
  }
}
