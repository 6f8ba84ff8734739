import { assign, encode, tensor } from "@transmla/core";
import { Model } from "transmla";

import { faster } from "../goals.js";
import { random } from "../harness.js";

export const name = "latent";
export const title =
  "Decoding with half the cache: latent (absorbed) against grouped attention, bf16 weights, one thread";

// The shape of SmolLM2 135M, and of its conversion to half the cache: speed does not depend on the weights.
const shape = { hidden: 576, feedForward: 1536, layers: 30, heads: 9, headDim: 64, vocab: 49_152 };
const KV_HEADS = 3;
const latent = { rank: 144, rope: 48 };

/** Tokens of one sample. */
const TOKENS = 4;

const required = { 2048: [0.7], 8192: [0.8, 1] };

export async function* cases(bench) {
  const { backend } = await bench.own();
  for (const length of bench.quick ? [2048] : [2048, 8192]) {
    const grouped = groupedModel(backend);
    const converted = latentModel(backend);
    yield {
      title: `context of ${length}`,
      contenders: [
        contender("transmla", converted, length, "transmla, latent"),
        contender("transmla, grouped", grouped, length),
      ],
      rate: { unit: "tokens/s", perRun: 1 },
      goals: [faster("grouped", ["transmla, grouped"], ...required[length])],
    };
    grouped[Symbol.dispose]();
    converted[Symbol.dispose]();
  }
}

function contender(who, model, length, label = who) {
  const cache = filledCache(model, length);
  return {
    who,
    label,
    time: async () => {
      const start = performance.now();
      for (let i = 0; i < TOKENS; i++) {
        const logits = model.forward([100 + i], cache);
        await logits.read();
        logits.dispose();
      }
      const ms = (performance.now() - start) / TOKENS;
      cache.rollback(length);
      return ms;
    },
    dispose: () => cache[Symbol.dispose](),
  };
}

/** A cache of random numbers: a prompt of this length would take minutes and change no time. */
function filledCache(model, length) {
  const cache = model.createCache(length + TOKENS);
  const numbers = random(2 ** 20, 5);
  for (const { tensors } of cache.layers) {
    for (const rows of tensors) {
      const values = Float32Array.from({ length: rows.size }, (_, i) => numbers[i & 0xfffff]);
      const filling = tensor(model.backend, values, rows.shape);
      assign(rows, filling);
      filling.dispose();
    }
  }
  cache.enter(length);
  cache.advance(length);
  return cache;
}

const common = {
  hidden_size: shape.hidden,
  intermediate_size: shape.feedForward,
  num_hidden_layers: shape.layers,
  num_attention_heads: shape.heads,
  vocab_size: shape.vocab,
  max_position_embeddings: 8192 + TOKENS,
  hidden_act: "silu",
  rms_norm_eps: 1e-5,
  rope_theta: 100_000,
  tie_word_embeddings: true,
};

function groupedModel(backend) {
  const config = {
    ...common,
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    num_key_value_heads: KV_HEADS,
  };
  const width = KV_HEADS * shape.headDim;
  return randomModel(backend, config, {
    "q_proj.weight": [shape.heads * shape.headDim, shape.hidden],
    "k_proj.weight": [width, shape.hidden],
    "v_proj.weight": [width, shape.hidden],
  });
}

function latentModel(backend) {
  const { rank, rope } = latent;
  const { heads, headDim, hidden } = shape;
  const config = {
    ...common,
    architectures: ["DeepseekV3ForCausalLM"],
    model_type: "deepseek_v3",
    num_key_value_heads: heads,
    q_lora_rank: null,
    kv_lora_rank: rank,
    qk_nope_head_dim: headDim,
    qk_rope_head_dim: rope,
    v_head_dim: headDim,
    first_k_dense_replace: shape.layers,
    moe_intermediate_size: shape.feedForward,
    n_routed_experts: 2,
    n_shared_experts: 1,
    num_experts_per_tok: 1,
    n_group: 1,
    topk_group: 1,
    topk_method: "noaux_tc",
    scoring_func: "sigmoid",
    norm_topk_prob: true,
    routed_scaling_factor: 1,
    rope_interleave: true,
  };
  return randomModel(backend, config, {
    "q_proj.weight": [heads * (headDim + rope), hidden],
    "kv_a_proj_with_mqa.weight": [rank + rope, hidden],
    "kv_a_layernorm.weight": [rank],
    "kv_b_proj.weight": [heads * 2 * headDim, rank],
  });
}

function randomModel(backend, config, attention) {
  const { hidden, feedForward, layers, heads, headDim, vocab } = shape;
  const bits = encode(
    random(2 ** 20, 7).map((x) => x / 8),
    "bf16",
  );
  const tensors = new Map();
  const add = (name, size) => {
    const count = size.reduce((product, n) => product * n, 1);
    if (size.length === 1)
      tensors.set(name, tensor(backend, new Float32Array(count).fill(1), size));
    else {
      const values = new Uint16Array(count);
      for (let at = 0; at < count; at += bits.length) {
        values.set(bits.subarray(0, Math.min(bits.length, count - at)), at);
      }
      tensors.set(name, tensor(backend, values, size, "bf16"));
    }
  };
  add("model.embed_tokens.weight", [vocab, hidden]);
  add("model.norm.weight", [hidden]);
  for (let layer = 0; layer < layers; layer++) {
    const prefix = `model.layers.${layer}.`;
    add(`${prefix}input_layernorm.weight`, [hidden]);
    add(`${prefix}post_attention_layernorm.weight`, [hidden]);
    for (const [part, size] of Object.entries(attention)) add(`${prefix}self_attn.${part}`, size);
    add(`${prefix}self_attn.o_proj.weight`, [hidden, heads * headDim]);
    add(`${prefix}mlp.gate_proj.weight`, [feedForward, hidden]);
    add(`${prefix}mlp.up_proj.weight`, [feedForward, hidden]);
    add(`${prefix}mlp.down_proj.weight`, [hidden, feedForward]);
  }
  const nothing = { tokenizer: undefined, chatTemplate: undefined, endTokens: [], sampling: {} };
  return new Model(backend, config, tensors, nothing);
}
