// The published algorithm against the published converter's own modules.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { tensor, type Tensor } from "@transmla/core";
import { multiply, type Matrix } from "@transmla/core/linalg";
import { afterEach, describe, expect, test } from "vitest";

import { diskFolder } from "../../../src/checkpoint/disk.ts";
import { openSafetensors } from "../../../src/checkpoint/safetensors.ts";
import { convert } from "../../../src/convert/convert.ts";
import { rowsOf, stackRows } from "../../../src/convert/latent/algebra/matrices.ts";
import { latentTensors } from "../../../src/convert/latent/export.ts";
import type { LatentLayer } from "../../../src/convert/latent/latent-layer.ts";
import { keyToValueRatio } from "../../../src/convert/latent/published/balanced-latent.ts";
import {
  PublishedRun,
  type PublishedLayer,
} from "../../../src/convert/latent/published/published-run.ts";
import {
  completePublished,
  type PublishedRecipe,
} from "../../../src/convert/latent/published/recipe.ts";
import { compare } from "../../../src/evaluate/evaluate.ts";
import { loadModel } from "../../../src/load.ts";
import { Model } from "../../../src/model/model.ts";
import { hasShared, shared } from "../../shared.ts";
import { withSource, type Windows } from "./bundled.ts";

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

const fixtures = join(shared, "fixtures/transmla");
const [heads, kvHeads, headDim] = [4, 2, 16];
const attention = { kind: "grouped", heads, kvHeads, headDim, scale: headDim ** -0.5 } as const;

interface Options {
  readonly freqfold: number;
  readonly qk_mqa_dim: number;
  readonly kv_lora_rank: number;
  readonly q_lora_rank: number | null;
  readonly balance_kv_ratio: number | null;
}

interface GoldenLayer {
  readonly key_energy: number;
  readonly key_energy_after_rotation: number;
  readonly key_energy_in_rope_dims: number;
  readonly balance_ratio: number;
  readonly kv_eigenvalues: readonly number[];
}

interface Golden {
  readonly source: string;
  readonly options: Options;
  readonly calibration_input_ids: Windows;
  readonly test_input_ids: Windows;
  readonly mean_kl_mla: number;
  readonly rotated: readonly GoldenLayer[];
}

const readGolden = (name: string): unknown =>
  JSON.parse(readFileSync(join(fixtures, name, "golden.json"), "utf8"));

const recipeOf = (options: Options): PublishedRecipe => ({
  recipe: "transmla",
  ropeDim: options.qk_mqa_dim,
  latentRank: options.kv_lora_rank,
  fold: options.freqfold,
  balance: options.balance_kv_ratio ?? "none",
  queryRank: options.q_lora_rank ?? "full",
});

const total = (values: Iterable<number>): number => [...values].reduce((a, b) => a + b, 0);
const expectRelative = (found: number, expected: number, tolerance = 1e-5): void =>
  expect.soft(Math.abs(found / expected - 1)).toBeLessThan(tolerance);

/** `tr(a C aᵀ)` for the keys' part of moments C. */
function energyIn(a: Matrix, { cols, data }: Matrix): number {
  const keys = { rows: a.cols, cols: a.cols, data: new Float64Array(a.cols ** 2) };
  for (let i = 0; i < a.cols; i++)
    keys.data.set(data.subarray(i * cols, i * cols + a.cols), i * a.cols);
  const moved = multiply(a, keys);
  return total(moved.data.map((x, i) => x * a.data[i]!));
}

/** The ratio as the converter computes it: by mistake it leaves the first d_r channels of the values out. */
function ratioWithDefect(uniform: Matrix, rest: Matrix, ropeDim: number): number {
  const width = uniform.rows;
  const mean = (from: number): number =>
    total(
      Array.from({ length: width - from }, (_, i) =>
        Math.sqrt(uniform.data[(from + i) * (width + 1)]!),
      ),
    ) /
    (width - from);
  return (keyToValueRatio(uniform, rest) * mean(width / 2)) / mean(width / 2 + ropeDim);
}

/** A layer against the converter's values. */
function checkLayer(
  { uniform, keys, latent }: PublishedLayer,
  { ropeDim, balance }: PublishedRecipe,
  tokens: number,
  golden: GoldenLayer,
): void {
  const kept = tokens * energyIn(keys.slots.read, uniform);
  const all = kept + tokens * energyIn(keys.rest, uniform);
  expectRelative(kept, golden.key_energy_in_rope_dims);
  expectRelative(all, golden.key_energy_after_rotation);
  if (balance !== "none") {
    expectRelative(ratioWithDefect(uniform, keys.rest, ropeDim), golden.balance_ratio);
  }
  // The converter adds 1 % of the mean diagonal.
  const damping = (0.01 * total(latent.eigenvalues)) / latent.eigenvalues.length;
  for (const [i, value] of latent.eigenvalues.entries()) {
    expectRelative(tokens * (value + damping), golden.kv_eigenvalues[i]!);
  }
}

/** Keys and values of each head from the inputs, `[H 2 d, D]`: `kv_b_proj kv_a_proj` without rope rows and biases. */
function product({ keyUp, valueUp, latent: { rows, cols, data }, output }: LatentLayer): Matrix {
  const D = output.rows;
  const weights = data.filter((_, i) => i % cols < D);
  const latent = { rows, cols: D, data: weights };
  const perHead = Array.from({ length: heads }, (_, h) => {
    const group = Math.floor(h / (heads / kvHeads));
    return [keyUp, valueUp].map((of) => rowsOf(of, group * headDim, (group + 1) * headDim));
  });
  return multiply(stackRows(perHead.flat()), latent);
}

const largest = (values: Float64Array): number =>
  values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
const expectNear = (
  found: Float32Array | Float64Array,
  expected: Float64Array,
  tolerance: number,
): void => {
  const errors = expected.map((x, i) => found[i]! - x);
  expect.soft(largest(errors)).toBeLessThan(tolerance);
};

/** All layers, each with the ratio that the converter used in place of the right one, which no other layer sees. */
async function goldenLayers(
  source: string,
  golden: Golden,
  recipe: PublishedRecipe,
): Promise<PublishedLayer[]> {
  const convertAll = (balances: readonly PublishedRecipe["balance"][]): Promise<PublishedLayer[]> =>
    withSource(source, async (config, attention, weights) => {
      const layers: PublishedLayer[] = [];
      for (const [i, balance] of balances.entries()) {
        const complete = completePublished({ ...recipe, balance }, attention);
        const options = { backend, windows: golden.calibration_input_ids, recipe: complete };
        using run = new PublishedRun(config, weights, options);

        layers.push(await run.convert(i));
      }
      return layers;
    });
  const right = await convertAll(golden.rotated.map(() => recipe.balance));
  if (recipe.balance === "none") return right;
  return convertAll(
    right.map(
      ({ uniform, keys }, i) =>
        keyToValueRatio(uniform, keys.rest) / golden.rotated[i]!.balance_ratio,
    ),
  );
}

/** The model with these layers: everything but attention is taken over. */
async function modelOf(
  source: Model,
  recipe: PublishedRecipe,
  layers: readonly PublishedLayer[],
): Promise<Model> {
  using plain = await convert(source, { method: "latent", ...recipe, calibration: [[1, 2]] });
  const tensors = new Map<string, Tensor>();
  for (const [name, { shape }] of plain.tensors) {
    const [, layer, field] = /^model\.layers\.(\d+)\.self_attn\.(.*)$/.exec(name) ?? [];
    const values =
      field === undefined
        ? await plain.tensors.get(name)!.read()
        : latentTensors(layers[Number(layer)]!.layer, attention, 1)[field]!.data;
    tensors.set(name, tensor(backend, values, shape));
  }
  return new Model(backend, plain.huggingFaceConfig, tensors, plain.assets);
}

describe.skipIf(!hasShared("fixtures/transmla"))("the published converter", () => {
  test.each([
    "llama-rorope-full",
    "llama-fold2-rank24",
    "llama-fold8-collapse4-rank16-nobalance",
    "llama-fold4-collapse2-rank20-q32",
    "qwen2-fold4-collapse2-rank24",
  ])("%s", async (name) => {
    const golden = readGolden(name) as Golden;
    const recipe = recipeOf(golden.options);
    const tokens = total(golden.calibration_input_ids.map((ids) => ids.length));
    const folder = diskFolder(join(fixtures, name));
    const stored = await openSafetensors(await folder.open("golden.safetensors"));
    const source = join(fixtures, golden.source);
    const layers = await goldenLayers(source, golden, recipe);
    for (const [i, layer] of layers.entries()) {
      checkLayer(layer, recipe, tokens, golden.rotated[i]!);
      const expected = await stored.numbers(`layers.${i}.kv_b_times_kv_a`);
      expectNear(product(layer.layer).data, expected, 1e-5 * Math.max(1, largest(expected)));
    }
    using model = await loadModel(source, { backend });
    using converted = await modelOf(model, recipe, layers);
    const logits = await stored.numbers("test_logits_mla");
    const perWindow = logits.length / golden.test_input_ids.length;
    for (const [i, ids] of golden.test_input_ids.entries()) {
      using cache = converted.createCache(ids.length);
      using all = converted.forward(ids, cache, { logits: "all" });
      expectNear(await all.read(), logits.subarray(i * perWindow, (i + 1) * perWindow), 5e-4);
    }
    const [comparison] = await compare(model, [converted], golden.test_input_ids);
    expectRelative(comparison!.meanKl, golden.mean_kl_mla, 1e-4);
    await stored.close();
  });
});

interface Results {
  readonly calibration_input_ids: Windows;
  readonly test_input_ids: Windows;
  readonly results: readonly {
    readonly options: Options;
    readonly mean_kl: number;
    readonly ppl: number;
  }[];
}

test.skipIf(!hasShared("models/stories260K"))(
  "predictions of a trained model over a range of settings",
  async () => {
    const golden = readGolden("stories260K") as Results;
    using model = await loadModel(join(shared, "models/stories260K"), { backend });
    // The whole latent, small latents, a fold, and one without a balance.
    for (const [i, tolerance] of [
      [0, 1e-5],
      [11, 1e-5],
      // The converter's mistake in the balance: see ratioWithDefect.
      [3, 5e-3],
      [4, 5e-3],
    ] as const) {
      const { options, mean_kl, ppl } = golden.results[i]!;
      const calibration = golden.calibration_input_ids;
      using converted = await convert(model, {
        method: "latent",
        ...recipeOf(options),
        calibration,
      });
      const [found] = await compare(model, [converted], golden.test_input_ids);
      expectRelative(found!.meanKl, mean_kl, tolerance);
      expectRelative(found!.perplexity[1], ppl, 2 * tolerance);
    }
  },
);
