import { bytesOf, fail, FormatError, UnsupportedError } from "@transmla/core";

import type { ByteSource } from "../checkpoint/folder.ts";
import { readGgufFloats, readGgufNumbers } from "../checkpoint/gguf/file.ts";
import type { GgufHeader, GgufTensor } from "../checkpoint/gguf/header.ts";
import { show } from "../checkpoint/json.ts";
import {
  collect,
  elementCount,
  tensorSource,
  type TensorInfo,
  type TensorSource,
} from "../checkpoint/tensors.ts";
import { outside, splitKeyValue, type GgufArchitecture } from "./architectures.ts";
import { keptDType, readGgufStored } from "./stored.ts";

/** The tensor that holds rotary factors; it is no weight. */
export const ROPE_FACTORS = "rope_freqs.weight";

type Numbers = Float32Array | Float64Array;

/** A tensor under its Hugging Face name. */
interface Weight extends TensorInfo {
  readonly stored: readonly GgufTensor[];
  /** Puts what is stored in order, where the order is another. */
  readonly arrange: (<T extends Numbers>(stored: readonly T[]) => T) | undefined;
  /** Puts rows in order, whatever their elements are; undefined where not only rows move. */
  readonly arrangeRows: (<T extends Numbers | Uint8Array>(rows: T) => T) | undefined;
}

/**
 * The weights of a GGUF file as a Hugging Face model has them: by its names, and with the rows of queries
 * and keys in its order.
 *
 * @param header - The header of the file.
 * @param architecture - What kind of model it holds.
 * @param headDim - The width of a head.
 * @param file - The file. The source owns it.
 * @throws UnsupportedError for a tensor that no supported model has.
 */
export function ggufWeights(
  header: GgufHeader,
  architecture: GgufArchitecture,
  headDim: number,
  file: ByteSource,
): TensorSource {
  const weights = new Map<string, Weight>();
  for (const stored of header.tensors.values()) {
    if (stored.name === ROPE_FACTORS) continue;
    const weight =
      findWeight(stored, header, architecture, headDim, file.name) ??
      fail(
        UnsupportedError,
        "ggufFolder",
        `tensor ${show(stored.name)} has no place in a model of this architecture`,
        file.name,
      );
    weights.set(weight.name, weight);
  }
  return tensorSource(file.name, weights, {
    bytes: async ({ stored, arrange }) => {
      const values = await eachOf(stored, (tensor) => readGgufFloats(file, tensor));
      return bytesOf(arrange ? arrange(values) : values[0]!);
    },
    stored: async ({ stored, arrangeRows }) => {
      const found = arrangeRows && (await readGgufStored(file, stored[0]!));
      return found && { ...found, bytes: arrangeRows(found.bytes) };
    },
    storedDType: ({ stored, arrangeRows }) => arrangeRows && keptDType(stored[0]!),
    pieces: async function* ({ stored, arrange }) {
      if (!arrange) return yield* readGgufNumbers(file, stored[0]!);
      yield arrange(await eachOf(stored, (tensor) => readWhole(file, tensor)));
    },
    close: async () => file.close(),
  });
}

async function readWhole(file: ByteSource, tensor: GgufTensor): Promise<Float64Array> {
  return collect(readGgufNumbers(file, tensor), new Float64Array(elementCount(tensor.shape)));
}

async function eachOf<T>(
  tensors: readonly GgufTensor[],
  read: (tensor: GgufTensor) => Promise<T>,
): Promise<T[]> {
  const all: T[] = [];
  for (const tensor of tensors) all.push(await read(tensor));
  return all;
}

/** The weight that a stored tensor is or belongs to; undefined for what no supported model has. */
function findWeight(
  stored: GgufTensor,
  header: GgufHeader,
  { tensors, pairsBeside }: GgufArchitecture,
  headDim: number,
  file: string,
): Weight | undefined {
  const parts = /^(?:(blk\.(\d+)\.))?(\w+)\.(weight|bias)$/.exec(stored.name);
  if (!parts) return undefined;
  const [, block, layer, stem, part] = parts;
  const prefix = layer === undefined ? "" : `model.layers.${layer}.`;
  const split: readonly string[] = Object.values(splitKeyValue);
  if (split.includes(stem!) && Object.hasOwn(tensors, "attn_kv_b")) {
    return joined(`${prefix}${tensors["attn_kv_b"]}.${part}`, header, `${block}`, `${part}`, file);
  }
  const names = layer === undefined ? outside : tensors;
  if (!Object.hasOwn(names, stem!)) return undefined;
  const name = `${prefix}${names[stem!]}.${part}`;
  const [rows = 1] = stored.shape;
  const permuted = pairsBeside && /\.[qk]_proj\./.test(name);
  return {
    name,
    dtype: "F32",
    shape: stored.shape,
    stored: [stored],
    arrange: permuted ? ([values]) => separatePairs(values!, rows, headDim) : undefined,
    arrangeRows: (values) => (permuted ? separatePairs(values, rows, headDim) : values),
  };
}

/** `kv_b_proj`: for each head its nope keys, which llama.cpp stores transposed, then its values. */
function joined(
  name: string,
  { tensors }: GgufHeader,
  block: string,
  part: string,
  file: string,
): Weight {
  const [key, value] = Object.values(splitKeyValue).map((stem) => {
    const wanted = `${block}${stem}.${part}`;
    return tensors.get(wanted) ?? fail(FormatError, file, `there is no tensor ${show(wanted)}`);
  });
  const [heads, rank, nope, ...more] = key!.shape;
  const [valueHeads, width, valueRank, ...others] = value!.shape;
  const rest = more.length + others.length;
  if (nope === undefined || valueHeads !== heads || valueRank !== rank || rest > 0) {
    const shapes = [key!, value!].map((tensor) => `${tensor.name}[${tensor.shape.join(",")}]`);
    fail(FormatError, file, `${shapes.join(" and ")} are not the keys and values of one latent`);
  }
  return {
    name,
    dtype: "F32",
    shape: [heads! * (nope + width!), rank!],
    stored: [key!, value!],
    arrange: ([keys, values]) => joinKeyValue(keys!, values!, heads!, rank!),
    arrangeRows: undefined,
  };
}

/** `[heads, rank, nope]` and `[heads, value, rank]` as `[heads * (nope + value), rank]`. */
function joinKeyValue<T extends Numbers>(keys: T, values: T, heads: number, rank: number): T {
  const nope = keys.length / (heads * rank);
  const valueSize = values.length / heads;
  const out = (
    keys instanceof Float32Array
      ? new Float32Array(keys.length + values.length)
      : new Float64Array(keys.length + values.length)
  ) as T;
  for (let head = 0; head < heads; head++) {
    const to = head * (nope * rank + valueSize);
    for (let r = 0; r < rank; r++) {
      for (let i = 0; i < nope; i++) out[to + i * rank + r] = keys[(head * rank + r) * nope + i]!;
    }
    out.set(values.subarray(head * valueSize, (head + 1) * valueSize), to + nope * rank);
  }
  return out;
}

/**
 * Puts the rows of each head from the order of interleaved pairs, (0, 1), (2, 3) ..., into that of two halves, in which
 * row i belongs to row i + d/2. This undoes `permute` of llama.cpp's `convert_hf_to_gguf.py`.
 */
function separatePairs<T extends Numbers | Uint8Array>(
  values: T,
  rows: number,
  headRows: number,
): T {
  // What is not whole heads of whole pairs is refused when the shape is checked.
  if (headRows % 2 !== 0 || rows % headRows !== 0) return values;
  const width = values.length / rows;
  const head = values.slice(0, headRows * width);
  for (let begin = 0; begin < values.length; begin += head.length) {
    head.set(values.subarray(begin, begin + head.length));
    for (let row = 0; row < headRows; row++) {
      const target = (row >> 1) + (row & 1) * (headRows / 2);
      values.set(head.subarray(row * width, (row + 1) * width), begin + target * width);
    }
  }
  return values;
}
