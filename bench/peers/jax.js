// jax-js on its wasm device: one thread in Node. Operations are compiled once by `jit`.
import { blockUntilReady, defaultDevice, init, jit, nn, numpy } from "@jax-js/jax";

export const name = "jax-js";

export async function load() {
  if (!(await init("wasm")).includes("wasm")) throw new Error("it has no wasm device here");
  defaultDevice("wasm");
  const contender = (compute, operands) => ({
    who: name,
    // Calls take their operands over: `ref` keeps them.
    run: async () => blockUntilReady(compute(...operands.map((x) => x.ref))),
    read: (x) => x.ref.data(),
    free: (x) => x.dispose(),
    dispose: () => operands.forEach((x) => x.dispose()),
  });
  return {
    matmul(a, b, [m, k, n]) {
      const [x, y] = [numpy.array(a).reshape([m, k]), numpy.array(b).reshape([k, n])];
      return contender(jit(numpy.matmul), [x, y]);
    },
    softmax(a, shape) {
      return contender(
        jit((x) => nn.softmax(x)),
        [numpy.array(a).reshape(shape)],
      );
    },
  };
}
