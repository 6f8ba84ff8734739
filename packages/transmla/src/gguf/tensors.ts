import { bytesOf, fail, UnsupportedError } from "@transmla/core";

import type { ByteSource } from "../checkpoint/folder.ts";
import { readGgufFloats, readGgufNumbers } from "../checkpoint/gguf/file.ts";
import type { GgufHeader, GgufTensor } from "../checkpoint/gguf/header.ts";
import { show } from "../checkpoint/json.ts";
import { tensorSource, type TensorInfo, type TensorSource } from "../checkpoint/tensors.ts";

/** The tensor that holds rotary factors; it is no weight. */
export const ROPE_FACTORS = "rope_freqs.weight";

/** Tensors outside of layers. */
const outside: Readonly<Record<string, string>> = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
};

/** Tensors of a layer. */
const inside: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

/** A tensor under its Hugging Face name. */
interface Weight extends TensorInfo {
  readonly stored: GgufTensor;
  /** Rows of a head, where its rows must be put in order. */
  readonly headRows: number | undefined;
}

/** `model.layers.0.self_attn.q_proj.weight` for `blk.0.attn_q.weight`; undefined for what no supported model has. */
function huggingFaceName(name: string): string | undefined {
  const parts = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name);
  if (!parts) return undefined;
  const [, layer, stem, part] = parts;
  const names = layer === undefined ? outside : inside;
  if (!Object.hasOwn(names, stem!)) return undefined;
  const prefix = layer === undefined ? "" : `model.layers.${layer}.`;
  return `${prefix}${names[stem!]}.${part}`;
}

/**
 * The weights of a GGUF file as a Hugging Face model has them: by its names, dequantized, and with the rows of queries
 * and keys in its order.
 *
 * @param header - The header of the file.
 * @param headDim - The width of a head where llama.cpp has put the two rows of each rotary pair beside each other.
 * @param file - The file. The source owns it.
 * @throws UnsupportedError for a tensor that no supported model has.
 */
export function ggufWeights(
  header: GgufHeader,
  headDim: number | undefined,
  file: ByteSource,
): TensorSource {
  const weights = new Map<string, Weight>();
  for (const stored of header.tensors.values()) {
    if (stored.name === ROPE_FACTORS) continue;
    const name = huggingFaceName(stored.name);
    if (name === undefined) {
      const problem = `tensor ${show(stored.name)} has no place in a model of this architecture`;
      return fail(UnsupportedError, "ggufFolder", problem, file.name);
    }
    const headRows = /\.[qk]_proj\./.test(name) ? headDim : undefined;
    weights.set(name, { name, dtype: "F32", shape: stored.shape, stored, headRows });
  }
  return tensorSource(file.name, weights, {
    bytes: async ({ stored, shape, headRows }) =>
      bytesOf(separatePairs(await readGgufFloats(file, stored), shape, headRows)),
    numbers: async ({ stored, shape, headRows }) =>
      separatePairs(await readGgufNumbers(file, stored), shape, headRows),
    close: async () => file.close(),
  });
}

/**
 * Puts the rows of each head from the order of interleaved pairs, (0, 1), (2, 3) ..., into that of two halves, in which
 * row i belongs to row i + d/2. This undoes `permute` of llama.cpp's `convert_hf_to_gguf.py`.
 */
function separatePairs<T extends Float32Array | Float64Array>(
  values: T,
  [rows = 1]: readonly number[],
  headRows: number | undefined,
): T {
  // What is not whole heads of whole pairs is refused when the shape is checked.
  if (headRows === undefined || headRows % 2 !== 0 || rows % headRows !== 0) return values;
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
