// What onnxruntime-web and onnxruntime-node have in common. Weights are constants, as in a model.
import { matmulModel, softmaxModel } from "./onnx-model.js";

/** Contenders of one runtime. */
export function onnxruntime(name, { InferenceSession, Tensor }, options) {
  const contender = async (model, data, shape) => {
    const session = await InferenceSession.create(new Uint8Array(model), options);
    const feeds = { a: new Tensor("float32", data, shape) };
    return {
      who: name,
      run: () => session.run(feeds),
      read: ({ c }) => c.data,
      free: ({ c }) => c.dispose(),
      dispose: () => session.release(),
    };
  };
  return {
    matmul: (a, b, [m, k, n]) => contender(matmulModel(b, [m, k, n]), a, [m, k]),
    softmax: (a, shape) => contender(softmaxModel(shape), a, shape),
  };
}
