import { faster } from "../goals.js";
import { checkProduct, random } from "../harness.js";

export const name = "threads";
export const title = "Two threads against one, f32 product of 1024 × 1024 matrices";

// Without peers: their threads go on looking for work after their turn, and take the core from ours.
export async function* cases(bench) {
  const two = await bench.own({ threads: 2 });
  const one = await bench.own({ threads: 1 }, "transmla, one thread");
  const shape = [1024, 1024, 1024];
  const [a, b] = [random(2 ** 20, 1), random(2 ** 20, 2)];
  yield {
    title: "1024 × 1024 × 1024",
    contenders: [two, one].map((library) => library.matmul(a, b, shape)),
    check: checkProduct(a, b, shape),
    rate: { unit: "GFLOP/s", perRun: 2e-9 * 1024 ** 3 },
    goals: [faster("one thread", ["transmla, one thread"], 1.8, 1.95)],
  };
}
