// A small random model as a Hugging Face folder and as the GGUF file that llama.cpp's converter would make of it.
import { blobFolder, type Folder } from "../../src/checkpoint/folder.ts";
import { elementCount } from "../../src/checkpoint/tensors.ts";
import { createRandom } from "../../src/generate/random.ts";
import { ggufFolder } from "../../src/gguf/folder.ts";
import { written, type Filled } from "../checkpoint/files.ts";
import {
  f32,
  flag,
  floats,
  ggufBytes,
  list,
  text,
  texts,
  u32,
  type Content,
  type Field,
} from "./writer.ts";

const hidden = 16;
const inner = 24;
const heads = 4;
const kvHeads = 2;
const headDim = 6; // heads * headDim differs from hidden
const layers = 2;
const tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "▁a", "ab", "▁ab", "<turn>"];

/** What varies between small models. */
export interface SmallModel {
  readonly architecture: "llama" | "qwen2";
  readonly biased: boolean;
  readonly tied: boolean;
}

const stems: Readonly<Record<string, string>> = {
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
  input_layernorm: "attn_norm",
  post_attention_layernorm: "ffn_norm",
};

/** The weights by their Hugging Face names, without the output matrix when it is tied. */
function weights({ biased, tied }: SmallModel): Filled[] {
  const random = createRandom(1);
  const fill = (name: string, ...shape: number[]): Filled => ({
    name,
    dtype: "F32",
    shape,
    values: Float32Array.from({ length: elementCount(shape) }, () => random() - 0.5),
  });
  const all = [fill("model.embed_tokens.weight", tokens.length, hidden)];
  for (let layer = 0; layer < layers; layer++) {
    const at = (name: string): string => `model.layers.${layer}.${name}`;
    for (const [name, count] of [
      ["q", heads],
      ["k", kvHeads],
      ["v", kvHeads],
    ] as const) {
      all.push(fill(at(`self_attn.${name}_proj.weight`), count * headDim, hidden));
      if (biased) all.push(fill(at(`self_attn.${name}_proj.bias`), count * headDim));
    }
    all.push(fill(at("self_attn.o_proj.weight"), hidden, heads * headDim));
    for (const name of ["gate", "up"]) all.push(fill(at(`mlp.${name}_proj.weight`), inner, hidden));
    all.push(fill(at("mlp.down_proj.weight"), hidden, inner));
    for (const name of ["input", "post_attention"])
      all.push(fill(at(`${name}_layernorm.weight`), hidden));
  }
  all.push(fill("model.norm.weight", hidden));
  if (!tied) all.push(fill("lm_head.weight", tokens.length, hidden));
  return all;
}

/** The model as Transformers saves it. */
export async function huggingFaceFolder(model: SmallModel, change: object = {}): Promise<Folder> {
  const config = {
    model_type: model.architecture,
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    rope_theta: 1000,
    vocab_size: tokens.length,
    tie_word_embeddings: model.tied,
    ...change,
  };
  const files = await written(weights(model));
  return blobFolder(new Map([...files, ["config.json", new Blob([JSON.stringify(config)])]]), "hf");
}

/** As `LlamaModel.permute` of llama.cpp: row (half, i) of each head becomes row (i, half). */
function interleave(values: ArrayLike<number>, rows: number): Float32Array {
  const width = values.length / rows;
  const out = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const [head, inHead] = [Math.floor(row / headDim), row % headDim];
    const [half, i] = [Math.floor(inHead / (headDim / 2)), inHead % (headDim / 2)];
    const target = head * headDim + 2 * i + half;
    for (let column = 0; column < width; column++)
      out[target * width + column] = values[row * width + column]!;
  }
  return out;
}

/** The model as the content of a GGUF file. */
export function ggufContent(
  model: SmallModel,
  change: Readonly<Record<string, Field>> = {},
): Content {
  const { architecture } = model;
  const tensors = weights(model).map(({ name, shape, values }) => {
    const parts = /^model\.layers\.(\d)\.(.+)\.(weight|bias)$/.exec(name);
    if (!parts) {
      const stem = /embed/.test(name) ? "token_embd" : /norm/.test(name) ? "output_norm" : "output";
      return floats(`${stem}.weight`, shape, values);
    }
    const [, layer, module, part] = parts;
    const permuted = architecture === "llama" && /[qk]_proj/.test(name);
    const stored = permuted ? interleave(values, shape[0]!) : values;
    return floats(`blk.${layer}.${stems[module!]}.${part}`, shape, stored);
  });
  const metadata: Record<string, Field> = {
    "general.architecture": text(architecture),
    [`${architecture}.context_length`]: u32(64),
    [`${architecture}.embedding_length`]: u32(hidden),
    [`${architecture}.block_count`]: u32(layers),
    [`${architecture}.feed_forward_length`]: u32(inner),
    [`${architecture}.attention.head_count`]: u32(heads),
    [`${architecture}.attention.head_count_kv`]: u32(kvHeads),
    [`${architecture}.attention.key_length`]: u32(headDim),
    [`${architecture}.attention.value_length`]: u32(headDim),
    [`${architecture}.attention.layer_norm_rms_epsilon`]: f32(1e-5),
    [`${architecture}.rope.dimension_count`]: u32(headDim),
    [`${architecture}.rope.freq_base`]: f32(1000),
    "tokenizer.ggml.model": text("llama"),
    "tokenizer.ggml.tokens": texts(tokens),
    "tokenizer.ggml.scores": list(6, [0, 0, 0, 0, -5, -6, -7, -2, -1, -3, 0]),
    "tokenizer.ggml.token_type": list(5, [2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 4]),
    "tokenizer.ggml.bos_token_id": u32(1),
    "tokenizer.ggml.eos_token_id": u32(2),
    "tokenizer.ggml.eot_token_id": u32(10),
    "tokenizer.ggml.add_bos_token": flag(true),
    "tokenizer.chat_template": text(
      "{{ bos_token }}{% for m in messages %}{{ m.content }}<turn>{% endfor %}",
    ),
    ...change,
  };
  return { metadata, tensors };
}

/** A GGUF file as a folder. */
export async function openContent(content: Content): Promise<Folder> {
  const files = new Map([["x.gguf", new Blob([ggufBytes(content)])]]);
  return ggufFolder(blobFolder(files, "dir"), "x.gguf");
}

/** The small LLaMA with other metadata. */
export async function openSmall(change: Readonly<Record<string, Field>> = {}): Promise<Folder> {
  return openContent(ggufContent({ architecture: "llama", biased: false, tied: true }, change));
}
