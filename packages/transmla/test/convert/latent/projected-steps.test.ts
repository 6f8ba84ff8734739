// Refinement of a layer in the own format: its gradient and its steps.
import { fc } from "@fast-check/vitest";
import { cpuBackend } from "@transmla/backend-cpu";
import { matmul, mul, sub } from "@transmla/core";
import { matrix, type Matrix } from "@transmla/core/linalg";
import { afterEach, expect, test } from "vitest";

import { owned, readOut, total, upload } from "../../../src/convert/latent/algebra/device.ts";
import { rowsOf } from "../../../src/convert/latent/algebra/matrices.ts";
import { projectedGradient } from "../../../src/convert/latent/projected/projected-gradient.ts";
import type { ProjectedMatrices } from "../../../src/convert/latent/projected/projected-layer.ts";
import { uploadProjected } from "../../../src/convert/latent/projected/run-layer.ts";
import { stepProjected } from "../../../src/convert/latent/projected/step-projected.ts";
import { project, uploadAttention } from "../../../src/convert/latent/source-layer.ts";
import { groupedLayer, layerSizes } from "../../spec/inputs/layers.ts";
import { sourceAttention } from "../../spec/inputs/moments.ts";
import { Random } from "../../spec/inputs/random.ts";

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

const cases = fc.tuple(
  layerSizes(),
  fc.record({
    rank: fc.integer({ min: 1, max: 5 }),
    slots: fc.integer({ min: 0, max: 2 }),
    positions: fc.boolean(),
    exactFirst: fc.boolean(),
  }),
);
type Case = typeof cases extends fc.Arbitrary<infer T> ? T : never;

/** A random layer of the own format over a random source, and a goal of its outputs. */
function drawn([size, sizes]: Case, valueHeads: "each" | "shared") {
  const layer = groupedLayer({ ...size, tokens: Math.min(size.tokens, 9) });
  const source = sourceAttention(layer);
  const { heads, kvHeads, headDim: d } = layer.attention;
  const random = new Random(size.seed);
  const weight = (rows: number, cols: number): Matrix =>
    matrix(
      rows,
      cols,
      Float64Array.from(random.gaussians(rows * cols), (a) => a * cols ** -0.5),
    );
  const { rank, slots, positions, exactFirst } = sizes;
  const pairs = Array.from({ length: slots }, (_, i) => i % (d / 2));
  const width = rank + 1 + 2 * slots + (positions ? d : 0);
  const groups = valueHeads === "each" ? heads : kvHeads;
  const mean = Float64Array.from(random.gaussians(2 * kvHeads * d));
  const matrices: ProjectedMatrices = {
    reading: { mean, positions, exactFirst },
    pairs,
    down: weight(rank + 2 * slots, 2 * kvHeads * d),
    downBias: weight(rank + 2 * slots, 1).data,
    maps: Array.from({ length: heads }, () => weight(d, width)),
    valueUp: weight(groups * d, rank),
    valueBias: weight(groups * d, 1).data,
    output: weight(size.hidden, heads * d),
  };
  const tokens = layer.x.length;
  const x = matrix(tokens, size.hidden, Float64Array.from(layer.x.flat()));
  const target = weight(tokens, size.hidden);
  const weights = matrix(
    tokens,
    1,
    Float64Array.from({ length: tokens }, () => random.uniform()),
  );
  return { source, matrices, x, target, weights, random };
}

type Drawn = ReturnType<typeof drawn>;

/** `Σ w |y - target|² / 2`, with the attention of the model. */
async function halfSquares(given: Drawn, layer: ProjectedMatrices): Promise<number> {
  const { source } = given;
  using tensors = uploadAttention(backend, source, given.x.rows);
  using runnable = uploadProjected(backend, layer, source, tensors);
  const { squares } = await readOut(() => {
    const rows = project(upload(backend, given.x), tensors, source.attention);
    const y = matmul(runnable.heads(rows), upload(backend, layer.output).transpose());
    const error = sub(y, upload(backend, given.target));
    return { squares: mul(error, mul(error, upload(backend, given.weights))) };
  });
  return total(squares) / 2;
}

test("the gradient of a layer is that of differences, for every matrix", async () => {
  await fc.assert(
    fc.asyncProperty(cases, async (input) => {
      const given = drawn(input, "each");
      const { matrices, source, random } = given;
      using tensors = uploadAttention(backend, source, given.x.rows);
      const gradients = await readOut(() => {
        const x = upload(backend, given.x);
        const rows = project(x, tensors, source.attention);
        const goal = {
          target: upload(backend, given.target),
          weights: upload(backend, given.weights),
        };
        return { ...projectedGradient(x, rows, matrices, source, goal) };
      });
      const flat = (layer: ProjectedMatrices, name: keyof typeof gradients): Float64Array => {
        if (name === "maps") return Float64Array.from(layer.maps.flatMap(({ data }) => [...data]));
        const held = layer[name];
        return held instanceof Float64Array ? held : held.data;
      };
      const moved = (
        name: keyof typeof gradients,
        by: Float64Array,
        step: number,
      ): ProjectedMatrices => {
        const data = flat(matrices, name).map((a, i) => a + step * by[i]!);
        if (name === "maps") {
          const { rows, cols } = matrices.maps[0]!;
          const all = matrix(rows * matrices.maps.length, cols, data);
          const maps = matrices.maps.map((_, h) => rowsOf(all, h * rows, (h + 1) * rows));
          return { ...matrices, maps };
        }
        const held = matrices[name];
        return { ...matrices, [name]: held instanceof Float64Array ? data : { ...held, data } };
      };
      for (const name of Object.keys(gradients) as (keyof typeof gradients)[]) {
        const gradient = gradients[name];
        const direction = Float64Array.from(random.gaussians(gradient.length));
        const at = (step: number): Promise<number> =>
          halfSquares(given, moved(name, direction, step));
        const step = 2 ** -7;
        const near = (await at(step)) - (await at(-step));
        const far = (await at(2 * step)) - (await at(-2 * step));
        const difference = (8 * near - far) / (12 * step);
        const found = direction.reduce((sum, a, i) => sum + a * gradient[i]!, 0);
        const scale = Math.sqrt(
          gradient.reduce((sum, a) => sum + a * a, 0) *
            direction.reduce((sum, a) => sum + a * a, 0),
        );
        expect(Math.abs(found - difference)).toBeLessThan(2e-3 * scale + 1e-4);
      }
    }),
    { numRuns: 20 },
  );
});

async function stepped(given: Drawn, steps: number): Promise<ProjectedMatrices> {
  const { source } = given;
  using tensors = uploadAttention(backend, source, given.x.rows);
  const inputs = {
    backend,
    windows: 1,
    positions: given.x.rows,
    at: () => upload(backend, given.x),
  };
  const goal = () =>
    owned(() => ({
      target: upload(backend, given.target),
      weights: upload(backend, given.weights),
    }));
  return await stepProjected(
    given.matrices,
    { source, inputs, goal, calibrated: { tensors } },
    steps,
  );
}

test("no steps change nothing but give every head its own values; steps lower the error", async () => {
  await fc.assert(
    fc.asyncProperty(cases, async (input) => {
      const given = drawn(input, "shared");
      const before = await halfSquares(given, given.matrices);
      expect(await halfSquares(given, await stepped(given, 0))).toBeCloseTo(before, 5);
      expect(await halfSquares(given, await stepped(given, 12))).toBeLessThan(before);
    }),
    { numRuns: 10 },
  );
});
