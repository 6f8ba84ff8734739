import { parseConfig, type HostTensor, type HuggingFaceConfig } from "transmla";

import { planTensors, type WeightReader } from "../../packages/transmla/src/convert/conversion.ts";

/** Numbers of one step, as files are read. */
const PIECE = 2 ** 20;

/**
 * Weights of a model that are made anew whenever they are read: nothing of it is held.
 *
 * @param json - The model.
 * @param onEmbeddings - Waited for whenever the embeddings have been read.
 */
export function randomWeights(
  json: HuggingFaceConfig,
  onEmbeddings: () => Promise<void>,
): WeightReader {
  const biased = json["model_type"] === "qwen2";
  const plan = planTensors(
    parseConfig(json),
    (name) => name === "lm_head.weight" || (biased && /[qkv]_proj\.bias$/.test(name)),
  );
  const tensors = new Map(plan.map(({ name, shape }, index) => [name, { shape, index }]));
  const count = (name: string): number => tensors.get(name)!.shape.reduce((a, b) => a * b, 1);
  const values = (name: string, start: number, end: number): Float64Array => {
    const { shape, index } = tensors.get(name)!;
    const numbers = new Float64Array(end - start);
    if (name.endsWith("norm.weight")) return numbers.fill(1);
    return fill(numbers, (index << 24) + start, Math.sqrt(3 / (shape[1] ?? shape[0]!)));
  };
  return {
    names: [...tensors.keys()],
    has: (name) => tensors.has(name),
    read: async (name): Promise<HostTensor> => ({
      shape: tensors.get(name)!.shape,
      data: values(name, 0, count(name)),
    }),
    pieces: async function* (name) {
      for (let at = 0; at < count(name); at += PIECE) {
        yield values(name, at, Math.min(at + PIECE, count(name)));
      }
      if (name === "model.embed_tokens.weight") await onEmbeddings();
    },
  };
}

/** Uniform numbers from -scale to scale, each a function of its position (the finaliser of MurmurHash3). */
function fill(numbers: Float64Array, from: number, scale: number): Float64Array {
  for (let i = 0; i < numbers.length; i++) {
    let x = Math.imul(from + i + 1, 0x9e37_79b1);
    x = Math.imul(x ^ (x >>> 16), 0x85eb_ca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2_ae35);
    numbers[i] = scale * ((x ^ (x >>> 16)) / 2 ** 31);
  }
  return numbers;
}
