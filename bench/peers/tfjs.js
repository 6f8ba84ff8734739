// TensorFlow.js on its WebAssembly backend: SIMD, one thread in Node. Kernels have run when the call returns.
import { fileURLToPath } from "node:url";

import * as wasm from "@tensorflow/tfjs-backend-wasm";
import * as tf from "@tensorflow/tfjs-core";

export const name = "tfjs-wasm";

export async function load() {
  const entry = import.meta.resolve("@tensorflow/tfjs-backend-wasm");
  wasm.setWasmPaths(fileURLToPath(new URL("../wasm-out/", entry)));
  if (!(await tf.setBackend("wasm"))) throw new Error("its backend did not start");
  const contender = (run, operands) => ({
    who: name,
    run,
    read: (t) => t.data(),
    free: (t) => t.dispose(),
    dispose: () => operands.forEach((t) => t.dispose()),
  });
  return {
    matmul(a, b, [m, k, n]) {
      const [x, y] = [tf.tensor2d(a, [m, k]), tf.tensor2d(b, [k, n])];
      return contender(() => tf.matMul(x, y), [x, y]);
    },
    softmax(a, shape) {
      const x = tf.tensor2d(a, shape);
      return contender(() => tf.softmax(x), [x]);
    },
  };
}
