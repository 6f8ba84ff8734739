// ONNX Runtime compiled to WebAssembly.
import { onnxruntime } from "./onnxruntime.js";

export const name = "onnxruntime-web";

export async function load({ threads }) {
  const known = globalThis.Worker;
  const runtime = await import("onnxruntime-web");
  runtime.env.wasm.numThreads = threads;
  const library = onnxruntime(name, runtime, { executionProviders: ["wasm"] });
  await library.matmul(new Float32Array(1), new Float32Array(1), [1, 1, 1]); // starts it
  // It leaves a global Worker behind in Node, from which jax-js concludes that it may use threads.
  if (!known && threads === 1) delete globalThis.Worker;
  return library;
}
