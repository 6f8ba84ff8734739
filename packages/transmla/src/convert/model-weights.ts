import type { Model } from "../model/model.ts";
import type { WeightReader } from "./method.ts";

/** The weights of a loaded model, read back one at a time. */
export function modelWeights({ tensors }: Model): WeightReader {
  return {
    names: [...tensors.keys()],
    has: (name) => tensors.has(name),
    read: async (name) => ({
      shape: tensors.get(name)!.shape,
      data: Float64Array.from(await tensors.get(name)!.read()),
    }),
    pieces: async function* (name) {
      yield Float64Array.from(await tensors.get(name)!.read());
    },
  };
}
