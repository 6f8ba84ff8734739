import { cpuBackend } from "@transmla/backend-cpu";
import { BackendError, tensor, type DType } from "@transmla/core";
import { afterEach, expect, test } from "vitest";

import { bundledModel } from "../src/bundled.ts";
import { blobFolder, type Folder } from "../src/checkpoint/folder.ts";
import { compare, cutWindows } from "../src/evaluate/evaluate.ts";
import { createRandom } from "../src/generate/random.ts";
import { weightDTypes, type WeightDType } from "../src/load-weights.ts";
import { loadModel } from "../src/load.ts";
import type { CacheDType } from "../src/model/cache-size.ts";
import type { Model } from "../src/model/model.ts";
import { written } from "./checkpoint/files.ts";

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

const dtypesOf = ({ tensors }: Model, pattern: RegExp): DType[] => [
  ...new Set([...tensors].filter(([name]) => pattern.test(name)).map(([, { dtype }]) => dtype)),
];

const loaded = (weights?: WeightDType): Promise<Model> =>
  loadModel(bundledModel, { backend, weights });

const vectors = /norm\.weight$/;
const matrices = /proj\.weight$/;
const vocabulary = /embed_tokens\.weight$/;

test.each([
  [undefined, 0],
  ["bf16", 1e-4],
  ["q8", 1e-3],
  ["q4", 0.1],
] as const)("weights held as %s diverge by less than %s nats", async (weights, limit) => {
  using exact = await loaded();
  using model = await loaded(weights);
  // The bundled model is stored in bf16, and bf16 is what f32 leaves of it.
  expect(dtypesOf(model, matrices)).toEqual([weights ?? "bf16"]);
  expect(dtypesOf(model, vocabulary)).toEqual([weights === "q4" ? "q8" : (weights ?? "bf16")]);
  expect(dtypesOf(model, vectors)).toEqual(["f32"]);
  const ids = exact.assets.tokenizer!.encode(
    "First Citizen:\nBefore we proceed any further, hear me speak.",
  );
  const [found] = await compare(exact, [model], cutWindows(ids, 64));
  expect(found!.meanKl).toBeLessThanOrEqual(limit);
});

test("cached numbers in fewer bits diverge a little", async () => {
  using model = await loaded();
  const ids = model.assets.tokenizer!.encode(
    "KING RICHARD III:\nA horse! a horse! my kingdom for a horse!",
  );
  const windows = cutWindows(ids, 64);
  const divergence = async (cacheDType: CacheDType): Promise<number> => {
    return (await compare(model, [model], windows, { cacheDType }))[0]!.meanKl;
  };
  expect(await divergence("f32")).toBe(0);
  for (const dtype of ["bf16", "q8"] as const) {
    const kl = await divergence(dtype);
    expect(kl).toBeGreaterThan(0);
    expect(kl).toBeLessThan(1e-3);
  }
});

/** A model whose hidden size is not a multiple of 32. */
async function narrowFolder(): Promise<Folder> {
  const random = createRandom(5);
  const shapes = Object.entries({
    "model.embed_tokens": [10, 24],
    "model.norm": [24],
    ...Object.fromEntries(
      Object.entries({
        "self_attn.q_proj": [32, 24],
        "self_attn.k_proj": [16, 24],
        "self_attn.v_proj": [16, 24],
        "self_attn.o_proj": [24, 32],
        "mlp.gate_proj": [32, 24],
        "mlp.up_proj": [32, 24],
        "mlp.down_proj": [24, 32],
        input_layernorm: [24],
        post_attention_layernorm: [24],
      }).map(([name, shape]) => [`model.layers.0.${name}`, shape]),
    ),
  });
  const filled = shapes.map(([name, shape]) => {
    const length = shape.reduce((product, size) => product * size, 1);
    const values = Array.from({ length }, () => random() - 0.5);
    return { name: `${name}.weight`, dtype: "F32" as const, shape, values };
  });
  const config = {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: 24,
    intermediate_size: 32,
    num_hidden_layers: 1,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 8,
    vocab_size: 10,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    max_position_embeddings: 32,
    tie_word_embeddings: true,
    hidden_act: "silu",
  };
  const files = await written(filled);
  return blobFolder(new Map([...files, ["config.json", new Blob([JSON.stringify(config)])]]));
}

test("matrices that are no whole blocks are bf16", async () => {
  using model = await loadModel(await narrowFolder(), { backend, weights: "q4" });
  expect(dtypesOf(model, /q_proj|embed/)).toEqual(["bf16"]);
  expect(dtypesOf(model, /o_proj|down_proj/)).toEqual(["q4"]);
  using cache = model.createCache(4, "q8");
  using logits = model.forward([1, 2, 3], cache);
  expect([...(await logits.read())].every(Number.isFinite)).toBe(true);
});

test("weights that do not fit are refused before any is read", async () => {
  const small = await cpuBackend({ maxBytes: 4 * 2 ** 20 });
  const load = (weights?: WeightDType): Promise<Model> => {
    return loadModel(bundledModel, {
      backend: small,
      weights,
      onProgress: () => expect.unreachable(),
    });
  };
  const found =
    "the model takes 5.45 MiB, and 4.00 MiB of the 4.00 MiB of the cpu backend are free";
  await expect(load()).rejects.toEqual(
    new BackendError(
      `loadModel: with weights f32 ${found}; what fits: weights q8 with 3.07 MiB, weights q4 with 1.80 MiB (${bundledModel})`,
    ),
  );
  expect(small.memory()).toEqual({ buffers: 0, bytes: 0 });
  const held = tensor(small, new Float32Array(2 ** 18), [2 ** 18]);
  await expect(load("q8")).rejects.toThrow(/3\.00 MiB of the 4\.00 MiB .*; what fits: weights q4/);
  held.dispose();
  const tiny = await cpuBackend({ maxBytes: 2 ** 20 });
  await expect(loadModel(bundledModel, { backend: tiny })).rejects.toThrow(
    "no form of the weights fits: take a smaller model or another backend",
  );
  for (const each of [small, tiny]) each.dispose();
});

test("what is said of the room is what weights take", async () => {
  for (const weights of weightDTypes) {
    using _ = await loaded(weights);
    const { bytes } = backend.memory();
    const exact = await cpuBackend({ maxBytes: Math.ceil(bytes / 2 ** 16) * 2 ** 16 });
    (await loadModel(bundledModel, { backend: exact, weights }))[Symbol.dispose]();
    exact.dispose();
    const less = await cpuBackend({ maxBytes: Math.floor((bytes - 1) / 2 ** 16) * 2 ** 16 });
    await expect(loadModel(bundledModel, { backend: less, weights })).rejects.toThrow(
      /^loadModel: with weights/,
    );
    less.dispose();
  }
});
