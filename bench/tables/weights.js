import { cast, matmul, tensor } from "@transmla/core";

import { faster } from "../goals.js";
import { checkProduct, random } from "../harness.js";

export const name = "weights";
export const title =
  "Vector times stored weights, one thread, cold: matrices in turn, more than caches hold";

const SHAPE = [1, 2048, 8192];

/** Copies of the matrix that take turns; in f32 64 MiB each. */
const COPIES = 8;

/** Relative to the largest sum: what rounding the weights costs at most. */
const tolerances = { f32: 1e-5, bf16: 0.02, q8: 0.02, q4: 0.3 };

export async function* cases(bench) {
  const { backend } = await bench.own();
  const [, k, n] = SHAPE;
  const a = random(k, 1);
  const b = random(k * n, 2);
  const rows = new Float32Array(k * n); // weights as models store them, [out, in]
  for (let i = 0; i < k; i++) for (let j = 0; j < n; j++) rows[j * k + i] = b[i * n + j];
  const x = tensor(backend, a, [1, k]);
  const contenders = Object.keys(tolerances).map((dtype) => {
    const copies = [];
    for (let i = 0; i < COPIES; i++) {
      const whole = tensor(backend, rows, [n, k]);
      copies.push(dtype === "f32" ? whole : cast(whole, dtype));
      if (dtype !== "f32") whole.dispose();
    }
    const weights = copies.map((copy) => copy.transpose());
    let turn = 0;
    return {
      who: dtype === "bf16" ? "transmla" : `transmla, ${dtype}`,
      label: `transmla, ${dtype}`,
      run: () => matmul(x, weights[turn++ % COPIES]),
      read: (y) => y.read(),
      free: (y) => y.dispose(),
      tolerance: tolerances[dtype],
      dispose: () => [...weights, ...copies].forEach((copy) => copy.dispose()),
    };
  });
  yield {
    title: SHAPE.join(" × "),
    contenders,
    check: (y, { tolerance }) => checkProduct(a, b, SHAPE, tolerance)(y),
    rate: { unit: "10⁹ weights/s", perRun: 1e-9 * k * n },
    goals: [{ ...faster("f32", ["transmla, f32"], 1.7, 2), text: "bf16: speed against f32" }],
  };
}
