// Refined conversions of whole models of random weights.
import { fc } from "@fast-check/vitest";
import { cpuBackend } from "@transmla/backend-cpu";
import { afterEach, expect, test } from "vitest";

import { memoryLayerStore } from "../../../src/convert/latent/layer-store.ts";
import { relativeError } from "../../spec/errors.ts";
import {
  converted,
  modelLogits,
  onBackend,
  sourceModel,
  sourceSizes,
  type TinyModel,
} from "../../spec/inputs/models.ts";
import { Random } from "../../spec/inputs/random.ts";

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

const models = sourceSizes.filter(({ headDim }) => headDim >= 4);
const small = { method: "latent", ropeDim: 2, latentRank: 3 } as const;

/** Squared differences of logits, relative to the squares of the source's. */
async function logitError(
  source: TinyModel,
  result: TinyModel,
  windows: number[][],
): Promise<number> {
  using a = onBackend(backend, source);
  using b = onBackend(backend, result);
  let [error, power] = [0, 0];
  for (const window of windows) {
    const [expected, found] = [await modelLogits(a, [window]), await modelLogits(b, [window])];
    for (const [t, row] of expected.entries()) {
      for (const [i, logit] of row.entries()) {
        error += (found[t]![i]! - logit) ** 2;
        power += logit ** 2;
      }
    }
  }
  return error / power;
}

test.each([
  ["transformers", models],
  ["own", models],
  ["own", models.map((size) => ({ ...size, family: "qwen3" as const, biased: false }))],
] as const)(
  "a refined conversion for %s is nearer on its windows, has another down_proj, and goes on behind kept layers to the same bits",
  async (target, sizes) => {
    await fc.assert(
      fc.asyncProperty(sizes, async (drawnSize) => {
        const source = sourceModel({ ...drawnSize, layers: 3 });
        const random = new Random(drawnSize.seed);
        const calibration = [40, 30, 20].map((length) => random.integers(length, 64));
        const options = { ...small, target, calibration, backend };
        const plain = await converted(source, options);
        const kept = memoryLayerStore();
        const refined = await converted(source, { ...options, refine: "steps", layers: kept });
        const [before, after] = [
          await logitError(source, plain, calibration),
          await logitError(source, refined, calibration),
        ];
        expect(after).toBeLessThan(before);
        const down = "model.layers.1.mlp.down_proj.weight";
        const change = relativeError(
          refined.tensors.get(down)!.data,
          plain.tensors.get(down)!.data,
        );
        expect(change).toBeGreaterThan(1e-4);

        const layers = memoryLayerStore();
        for (const layer of [0, 1]) await layers.write(layer, (await kept.read(layer))!);
        const resumed = await converted(source, { ...options, refine: "steps", layers });
        expect(resumed.tensors).toEqual(refined.tensors);
      }),
      { numRuns: 6 },
    );
  },
);

test("refinement needs the refits of output matrices", async () => {
  const source = sourceModel({ ...fc.sample(models, { numRuns: 1, seed: 1 })[0]!, layers: 1 });
  const options = { ...small, calibration: [[1, 2]], backend } as const;
  await expect(
    converted(source, { ...options, refine: "steps", outputRidge: "none" }),
  ).rejects.toThrow("convert: refine needs outputRidge: it refits o_proj and down_proj");
});
