import { faster, javascriptPeers } from "../goals.js";
import { checkProduct, random } from "../harness.js";

export const name = "matvec";
export const title = "Vector times matrix, f32, one thread";

export async function* cases(bench) {
  const own = await bench.own();
  const peers = await bench.peers(["tfjs", "jax", "ort-web", "numpy-ts", "ort-node", "openblas"]);
  for (const shape of [
    [1, 2048, 8192],
    [1, 576, 576],
  ]) {
    const [, k, n] = shape;
    const [a, b] = [random(k, 1), random(k * n, 2)];
    const isLarge = n === 8192;
    const required = bench.node >= 22 ? 0.9 : 0.8;
    yield {
      title: shape.join(" × "),
      contenders: [own, ...peers].map((library) => library.matmul(a, b, shape)),
      check: checkProduct(a, b, shape),
      rate: { unit: "GB/s", perRun: 4e-9 * k * n },
      goals: [
        faster("the best JavaScript peer", javascriptPeers),
        faster("OpenBLAS", ["OpenBLAS"], isLarge ? required : undefined, isLarge ? 1 : undefined),
      ],
    };
  }
}
