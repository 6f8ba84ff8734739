import { add, matmul, mul, rmsNorm, scope, softmax, tensor } from "@transmla/core";

import { random, requireNear } from "../harness.js";

export const name = "overhead";
export const title = "Small operations, one thread: what a call costs";

export async function* cases(bench) {
  const { backend } = await bench.own();
  const data = random(576, 1);
  const [x, y] = [tensor(backend, data, [576]), tensor(backend, random(576, 2), [576])];
  const [tiny, small] = [tensor(backend, [2], [1]), tensor(backend, random(256, 3), [16, 16])];
  const operations = {
    "add [1]": [() => add(tiny, tiny), [4]],
    "mul [576]": [() => mul(x, y)],
    "matmul 16 × 16 × 16": [() => matmul(small, small)],
    "softmax [576]": [() => softmax(x)],
    "rmsNorm [576]": [() => rmsNorm(x, y, { eps: 1e-5, offset: 0 })],
    "ten additions in a scope [576]": [
      () =>
        scope(() => {
          let sum = x;
          for (let i = 0; i < 10; i++) sum = add(sum, y);
          return sum;
        }),
    ],
  };
  for (const [title, [run, expected]] of Object.entries(operations)) {
    yield {
      title,
      contenders: [{ who: "transmla", run, read: (t) => t.read(), free: (t) => t.dispose() }],
      check: (numbers) => requireNear(numbers, expected ?? numbers, 1e-6),
      goals: [],
    };
  }
}
