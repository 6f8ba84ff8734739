// What the merged conversion writes: a DeepSeek-V3 checkpoint that stock Transformers loads.
import { expect } from "vitest";

import { formatConfig } from "../../src/convert/format-config.ts";
import { parseConfig } from "../../src/model/config/families.ts";
import type { HuggingFaceConfig } from "../../src/model/config/model-config.ts";
import { converted, sourceModel, sourceSizes } from "./inputs/models.ts";
import { property } from "./property.ts";

/** Names and shapes of the DeepSeek-V3 class of Transformers with dense layers (modeling_deepseek_v3.py). */
function deepseekTensors(json: HuggingFaceConfig): Map<string, number[]> {
  const number = (name: string): number => json[name] as number;
  const [D, I, V, H] = [
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "num_attention_heads",
  ].map(number) as [number, number, number, number];
  const [nope, rope, value] = ["qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"].map(
    number,
  ) as [number, number, number];
  const rank = number("kv_lora_rank");
  const queryRank = json["q_lora_rank"] as number | null;
  const bias = json["attention_bias"] === true;
  const shapes = new Map<string, number[]>();
  shapes.set("model.embed_tokens.weight", [V, D]);
  for (let layer = 0; layer < number("num_hidden_layers"); layer++) {
    const prefix = `model.layers.${layer}`;
    const attention = `${prefix}.self_attn`;
    if (queryRank === null) {
      shapes.set(`${attention}.q_proj.weight`, [H * (nope + rope), D]);
    } else {
      shapes.set(`${attention}.q_a_proj.weight`, [queryRank, D]);
      if (bias) shapes.set(`${attention}.q_a_proj.bias`, [queryRank]);
      shapes.set(`${attention}.q_a_layernorm.weight`, [queryRank]);
      shapes.set(`${attention}.q_b_proj.weight`, [H * (nope + rope), queryRank]);
    }
    shapes.set(`${attention}.kv_a_proj_with_mqa.weight`, [rank + rope, D]);
    if (bias) shapes.set(`${attention}.kv_a_proj_with_mqa.bias`, [rank + rope]);
    shapes.set(`${attention}.kv_a_layernorm.weight`, [rank]);
    shapes.set(`${attention}.kv_b_proj.weight`, [H * (nope + value), rank]);
    shapes.set(`${attention}.o_proj.weight`, [D, H * value]);
    if (bias) shapes.set(`${attention}.o_proj.bias`, [D]);
    shapes.set(`${prefix}.mlp.gate_proj.weight`, [I, D]);
    shapes.set(`${prefix}.mlp.up_proj.weight`, [I, D]);
    shapes.set(`${prefix}.mlp.down_proj.weight`, [D, I]);
    shapes.set(`${prefix}.input_layernorm.weight`, [D]);
    shapes.set(`${prefix}.post_attention_layernorm.weight`, [D]);
  }
  shapes.set("model.norm.weight", [D]);
  shapes.set("lm_head.weight", [V, D]);
  return shapes;
}

property(
  {
    id: "P5",
    statement:
      "every tensor of a merged model has the name and the shape that DeepSeek-V3 has for the written config; none is missing and none is extra",
    tolerance: "exact",
  },
  [sourceSizes],
  async (size) => {
    const { json, tensors } = await converted(sourceModel(size), { method: "merged" });
    const shapes = new Map([...tensors].map(([name, { shape }]) => [name, [...shape]]));
    expect(Object.fromEntries(shapes)).toEqual(Object.fromEntries(deepseekTensors(json)));
    for (const { shape, data } of tensors.values())
      expect(data.length).toBe(shape.reduce((a, b) => a * b, 1));
  },
);

property(
  {
    id: "P5",
    statement:
      "the config of a merged model has num_key_value_heads = num_attention_heads and head_dim = qk_rope_head_dim, dense layers only, and a query rank exactly where there are biases",
    tolerance: "exact",
  },
  [sourceSizes],
  async (size) => {
    const { json } = await converted(sourceModel(size), { method: "merged" });
    const biased = size.biased || size.family === "qwen2";
    expect(json).toMatchObject({
      model_type: "deepseek_v3",
      num_attention_heads: size.heads,
      num_key_value_heads: size.heads,
      kv_lora_rank: size.kvHeads * size.headDim,
      qk_rope_head_dim: size.kvHeads * size.headDim,
      head_dim: size.kvHeads * size.headDim,
      v_head_dim: size.headDim,
      attention_bias: biased,
      q_lora_rank: biased ? size.heads * size.headDim : null,
      rms_norm_eps: 1e-6,
      tie_word_embeddings: false,
      first_k_dense_replace: size.layers,
    });
  },
);

/** The fields that Transformers declares as floats: an integer there is refused. */
const floatFields = [
  "rms_norm_eps",
  "routed_scaling_factor",
  "initializer_range",
  "attention_dropout",
];

property(
  {
    id: "P5",
    statement:
      "the text of the config reads back as the same config and the same model, and every float field is written as a float",
    tolerance: "exact",
  },
  [sourceSizes],
  async (size) => {
    const source = sourceModel(size);
    const { json } = await converted(
      { ...source, json: { ...source.json, initializer_range: 1 } },
      { method: "merged" },
    );
    const text = formatConfig(json);
    const read = JSON.parse(text) as HuggingFaceConfig;
    expect(read).toEqual(json);
    expect(parseConfig(read)).toEqual(parseConfig(json));
    for (const field of floatFields.filter((name) => name in json)) {
      expect(text).toMatch(new RegExp(String.raw`"${field}": -?\d+(\.\d|e-?\d|\.\d+e)`));
    }
  },
);
