import { faster } from "../goals.js";
import { random, requireNear } from "../harness.js";

export const name = "softmax";
export const title = "Softmax of the rows of a 4096 × 4096 matrix, f32, one thread";

const SIZE = 4096;

export async function* cases(bench) {
  const own = await bench.own();
  const peers = await bench.peers(["tfjs", "jax", "ort-web", "ort-node", "openblas"]);
  const a = random(SIZE * SIZE, 1);
  const check = (y) => {
    for (const row of [0, 1234, SIZE - 1]) {
      const exponentials = Array.from(a.subarray(row * SIZE, (row + 1) * SIZE), Math.exp);
      const sum = exponentials.reduce((total, x) => total + x, 0);
      const expected = exponentials.map((x) => x / sum);
      requireNear(y.slice(row * SIZE, (row + 1) * SIZE), expected, 1e-5);
    }
  };
  yield {
    title: `${SIZE} × ${SIZE}`,
    contenders: [own, ...peers].map((library) => library.softmax(a, [SIZE, SIZE])),
    check,
    goals: [faster("tfjs-wasm", ["tfjs-wasm"], 1.4, 2)],
  };
}
