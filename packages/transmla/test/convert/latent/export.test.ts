// The exported checkpoint, read back and run as any DeepSeek-V3, against the converted layers as they were computed: in
// f64, without norm, scales or another order of pairs.
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { matmul, mul, scope, sum, type Tensor } from "@transmla/core";
import { afterEach, expect, test } from "vitest";

import { bundledModel } from "../../../src/bundled.ts";
import { diskFolder } from "../../../src/checkpoint/disk.ts";
import { blobFolder } from "../../../src/checkpoint/folder.ts";
import { memoryOutput } from "../../../src/checkpoint/output.ts";
import { convertCheckpoint } from "../../../src/convert/convert.ts";
import { owned, upload } from "../../../src/convert/latent/algebra/device.ts";
import { CalibrationStream } from "../../../src/convert/latent/calibration-stream.ts";
import type { ConvertedLayer } from "../../../src/convert/latent/convert-layer.ts";
import { latentHeads, uploadLatent } from "../../../src/convert/latent/latent-layer.ts";
import { EPS, LATENT_SCALE } from "../../../src/convert/merged.ts";
import { cutWindows } from "../../../src/evaluate/evaluate.ts";
import { loadModel } from "../../../src/load.ts";
import { convertedLayers, withSource } from "./bundled.ts";

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

const recipe = { ropeDim: 24, latentRank: 72 };

/** Logits `[T, vocab]` of the bundled model with converted layers, and the largest mean square of their latents. */
async function inMemory(
  layers: readonly ConvertedLayer[],
  ids: readonly number[],
): Promise<{ readonly logits: Float32Array; readonly latent: number }> {
  using source = await loadModel(bundledModel, { backend });
  return await withSource(bundledModel, async (config, attention, weights) => {
    using stream = new CalibrationStream(backend, config, await weights.embeddings([ids]), [ids]);
    let largest = 0;
    for (const [index, { layer, slots }] of layers.entries()) {
      using inputs = stream.inputs(await weights.norm(index));
      using x = inputs.at(0);
      const { frequencies } = config.ropes[index]!;
      const rotated = slots.pairs.map((pair) => frequencies[pair]!);
      using w = uploadLatent(backend, layer, rotated, ids.length);
      using result = owned(() => {
        const latent = matmul(x, w.latent.transpose());
        const heads = latentHeads(x, w, attention);
        return {
          output: matmul(heads, upload(backend, layer.output).transpose()),
          squares: sum(mul(latent, latent)),
        };
      });
      const squares = await result.squares.read();
      largest = Math.max(largest, ...squares.map((square) => square / recipe.latentRank));
      using behind = await weights.behindAttention(index, backend);
      stream.advance(index, [result.output], behind);
    }
    const norm = source.tensors.get("model.norm.weight")!;
    const head =
      source.tensors.get("lm_head.weight") ?? source.tensors.get("model.embed_tokens.weight")!;
    using last = stream.inputs({ shape: norm.shape, data: Float64Array.from(await norm.read()) });
    using hidden = last.at(0);
    using logits = scope((): Tensor => matmul(hidden, head.transpose()));
    return { logits: await logits.read(), latent: largest };
  });
}

test("an export gives the logits of the layers that were computed, within the bound of its dominated norms", async () => {
  const text = await readFile(join(bundledModel, "sample.txt"), "utf8");
  using source = await loadModel(bundledModel, { backend });
  const [calibration, ids] = cutWindows(source.assets.tokenizer!.encode(text), 96, 2);
  const windows = [calibration!];
  const layers = await convertedLayers(backend, windows, recipe, [0, 1, 2, 3, 4, 5]);
  const { logits: expected, latent } = await inMemory(layers, ids!);

  const output = memoryOutput();
  const options = { method: "latent", ...recipe, calibration: windows, backend } as const;
  await convertCheckpoint(diskFolder(bundledModel), output, options);
  using exported = await loadModel(blobFolder(output.files), { backend });
  // P38: what each norm may take of its latent. Coordinates are white on the calibration tokens, not on these.
  const bound = (LATENT_SCALE ** 2 * latent) / (2 * EPS);
  expect(bound).toBeLessThan(1e-4);
  const most = expected.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0);
  for (const latentForm of ["absorbed", "expanded"] as const) {
    using cache = exported.createCache(ids!.length);
    using logits = exported.forward(ids!, cache, { latentForm, logits: "all" });
    const found = await logits.read();
    const errors = expected.map((x, i) => Math.abs(found[i]! - x));
    expect(errors.reduce((a, b) => Math.max(a, b), 0)).toBeLessThan(
      (1e-4 + layers.length * bound) * most,
    );
  }
});
