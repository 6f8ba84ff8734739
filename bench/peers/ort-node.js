// ONNX Runtime as native code.
import runtime from "onnxruntime-node";

import { onnxruntime } from "./onnxruntime.js";

export const name = "onnxruntime-node";
export const isNative = true;

export async function load({ threads }) {
  const options = { intraOpNumThreads: threads, interOpNumThreads: 1, logSeverityLevel: 3 };
  return onnxruntime(name, runtime, options);
}
