// Refinement of a layer: its gradient, its steps, and the refits.
import { fc } from "@fast-check/vitest";
import { cpuBackend } from "@transmla/backend-cpu";
import { matmul, mul, sub, type Tensor } from "@transmla/core";
import { matrix, multiply, transpose, type Matrix } from "@transmla/core/linalg";
import { afterEach, expect, test } from "vitest";

import { readOut, total, upload } from "../../../src/convert/latent/algebra/device.ts";
import {
  innerProduct,
  meanDiagonal,
  weightedSum,
} from "../../../src/convert/latent/algebra/matrices.ts";
import {
  latentHeads,
  uploadLatent,
  type LatentLayer,
} from "../../../src/convert/latent/latent-layer.ts";
import { latentGradient } from "../../../src/convert/latent/refine/latent-gradient.ts";
import { stepLayer } from "../../../src/convert/latent/refine/layer-steps.ts";
import { OutputFit } from "../../../src/convert/latent/steps/output-refit.ts";
import type { GroupedAttention } from "../../../src/model/config/model-config.ts";
import { relativeError, SINGLE } from "../../spec/errors.ts";
import { seeds } from "../../spec/inputs/layers.ts";
import { Random } from "../../spec/inputs/random.ts";

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

/** A random latent layer and what it should give of a window. */
interface Case {
  readonly c: GroupedAttention;
  readonly layer: LatentLayer;
  readonly frequencies: readonly number[];
  readonly x: Matrix;
  readonly target: Matrix;
  readonly weights: Matrix;
  readonly random: Random;
}

const sizes = fc.record({
  kvHeads: fc.integer({ min: 1, max: 2 }),
  repeats: fc.integer({ min: 1, max: 2 }),
  pairs: fc.integer({ min: 1, max: 3 }),
  ropePairs: fc.integer({ min: 1, max: 2 }),
  rank: fc.integer({ min: 1, max: 5 }),
  hidden: fc.integer({ min: 4, max: 12 }),
  tokens: fc.integer({ min: 1, max: 9 }),
  /** Of the queries; they are made of the inputs where it is 0. */
  queryRank: fc.integer({ min: 0, max: 3 }),
  biased: fc.boolean(),
  seed: seeds,
});
type Sizes = typeof sizes extends fc.Arbitrary<infer T> ? T : never;

/** The heads of the case read keys and values of their own, or of their group. */
function drawn(size: Sizes, keyHeads: "each" | "shared"): Case {
  const random = new Random(size.seed);
  const { kvHeads, ropePairs, rank, hidden, tokens, queryRank } = size;
  const [heads, d] = [kvHeads * size.repeats, 2 * size.pairs];
  const values = (rows: number, cols: number, scale = 1): Matrix =>
    matrix(
      rows,
      cols,
      Float64Array.from(random.gaussians(rows * cols), (a) => scale * a),
    );
  const weight = (rows: number, cols: number): Matrix => values(rows, cols, cols ** -0.5);
  const width = hidden + Number(size.biased);
  const asked = queryRank || width;
  const groups = keyHeads === "each" ? heads : kvHeads;
  return {
    c: { kind: "grouped", heads, kvHeads, headDim: d, scale: d ** -0.5 },
    layer: {
      ...(queryRank > 0 && { queryDown: weight(queryRank, width) }),
      queryNope: weight(heads * d, asked),
      queryRope: weight(heads * 2 * ropePairs, asked),
      keyRope: weight(2 * ropePairs, width),
      latent: weight(rank, width),
      keyUp: weight(groups * d, rank),
      valueUp: weight(groups * d, rank),
      output: weight(hidden, heads * d),
    },
    frequencies: random.frequencies(ropePairs),
    x: values(tokens, hidden),
    target: values(tokens, hidden),
    weights: matrix(
      tokens,
      1,
      Float64Array.from({ length: tokens }, () => random.uniform()),
    ),
    random,
  };
}

/** `Σ w |y - target|² / 2`. */
async function halfSquares(given: Case, layer: LatentLayer): Promise<number> {
  using w = uploadLatent(backend, layer, given.frequencies, given.x.rows);
  const { squares } = await readOut(() => {
    const heads = latentHeads(upload(backend, given.x), w, given.c);
    const y = matmul(heads, upload(backend, layer.output).transpose());
    const error = sub(y, upload(backend, given.target));
    return { squares: mul(error, mul(error, upload(backend, given.weights))) };
  });
  return total(squares) / 2;
}

test("the gradient of a layer is that of differences, for every matrix", async () => {
  await fc.assert(
    fc.asyncProperty(sizes, async (size) => {
      const given = drawn(size, "each");
      const { layer, random } = given;
      using w = uploadLatent(backend, layer, given.frequencies, given.x.rows);
      using output = upload(backend, layer.output);
      const gradients = await readOut(() => {
        const goal = {
          target: upload(backend, given.target),
          weights: upload(backend, given.weights),
        };
        return { ...latentGradient(upload(backend, given.x), { ...w, output }, given.c, goal) };
      });
      for (const name of Object.keys(gradients) as (keyof typeof gradients)[]) {
        const a = layer[name]!;
        const direction = matrix(
          a.rows,
          a.cols,
          Float64Array.from(random.gaussians(a.data.length)),
        );
        const at = (step: number): Promise<number> =>
          halfSquares(given, {
            ...layer,
            [name]: weightedSum([
              [1, a],
              [step, direction],
            ]),
          });
        // A fourth-order difference: a step so long that rounding in f32 is small beside what it changes.
        const step = 2 ** -7;
        const near = (await at(step)) - (await at(-step));
        const far = (await at(2 * step)) - (await at(-2 * step));
        const difference = (8 * near - far) / (12 * step);
        const gradient = matrix(a.rows, a.cols, Float64Array.from(gradients[name]!));
        const scale = Math.sqrt(
          innerProduct(gradient, gradient) * innerProduct(direction, direction),
        );
        const found = innerProduct(gradient, direction);
        expect(Math.abs(found - difference)).toBeLessThan(2e-3 * scale + 1e-4);
      }
    }),
    { numRuns: 20 },
  );
});

/** A layer to be improved on one window. */
async function stepped(given: Case, steps: number): Promise<LatentLayer> {
  const inputs = {
    backend,
    windows: 1,
    positions: given.x.rows,
    at: () => upload(backend, given.x),
  };
  const source = { attention: given.c };
  const goal = (): { target: Tensor; weights: Tensor } & Disposable => {
    const target = upload(backend, given.target);
    const weights = upload(backend, given.weights);
    const dispose = (): void => [target, weights].forEach((held) => held.dispose());
    return { target, weights, [Symbol.dispose]: dispose };
  };
  return stepLayer(given.layer, given.frequencies, { source, inputs, goal }, steps);
}

test("no steps change nothing but give every head its own rows; steps lower the error", async () => {
  await fc.assert(
    fc.asyncProperty(sizes, async (size) => {
      const given = drawn(size, "shared");
      const before = await halfSquares(given, given.layer);
      const same = await stepped(given, 0);
      expect(same.keyUp.rows).toBe(given.c.heads * given.c.headDim);
      expect(await halfSquares(given, same)).toBeCloseTo(before, 5);
      expect(await halfSquares(given, await stepped(given, 12))).toBeLessThan(before);
    }),
    { numRuns: 10 },
  );
});

const fits = fc.record({
  inputs: fc.integer({ min: 1, max: 8 }),
  outputs: fc.integer({ min: 1, max: 6 }),
  tokens: fc.integer({ min: 1, max: 30 }),
  ridge: fc.constantFrom(0.01, 0.1, 1),
  seed: seeds,
});

test("a refit is the weighted ridge solution about the matrix, in any order of windows, and never further from its goal", async () => {
  await fc.assert(
    fc.asyncProperty(fits, async ({ inputs, outputs, tokens, ridge, seed }) => {
      const random = new Random(seed);
      const values = (rows: number, cols: number): Matrix =>
        matrix(rows, cols, Float64Array.from(random.gaussians(rows * cols), Math.fround));
      const original = values(outputs, inputs);
      const windows = Array.from({ length: 3 }, () => {
        const weights = values(tokens, 1);
        return {
          x: values(tokens, inputs),
          target: values(tokens, outputs),
          weights: { ...weights, data: weights.data.map((w) => w * w) },
        };
      });
      const fitted = async (order: typeof windows) => {
        const fit = new OutputFit(inputs, outputs);
        using output = upload(backend, original);
        for (const { x, target, weights } of order) {
          using a = upload(backend, x);
          using b = upload(backend, target);
          using w = upload(backend, weights);
          await fit.add(a, b, output, w);
        }
        return fit.finish(original, ridge);
      };
      const found = await fitted(windows);
      expect(found.error).toBeLessThanOrEqual(found.errorBefore * (1 + SINGLE));
      const again = await fitted(windows.toReversed());
      expect(relativeError(again.output.data, found.output.data)).toBeLessThan(1e-10);

      // Σ w xᵀ (target - x Wᵀ) = e (W - W₀)ᵀ, the condition of the minimum.
      const gram = matrix(inputs, inputs);
      const pulled = matrix(inputs, outputs);
      for (const { x, target, weights } of windows) {
        const weighted = {
          ...x,
          data: x.data.map((v, i) => v * weights.data[Math.floor(i / inputs)]!),
        };
        const y = multiply(x, found.output, { transposeB: true });
        const rest = weightedSum([
          [1, target],
          [-1, y],
        ]);
        const add = (into: Matrix, of: Matrix): void =>
          multiply(weighted, of, { transposeA: true }).data.forEach((v, i) => (into.data[i]! += v));
        add(gram, x);
        add(pulled, rest);
      }
      const change = transpose(
        weightedSum([
          [1, found.output],
          [-1, original],
        ]),
      );
      const held = weightedSum([[ridge * meanDiagonal(gram), change]]);
      const size =
        Math.sqrt(innerProduct(gram, gram)) * (1 + Math.sqrt(innerProduct(change, change)));
      const off = weightedSum([
        [1, pulled],
        [-1, held],
      ]);
      expect(Math.sqrt(innerProduct(off, off))).toBeLessThan(SINGLE * size);
    }),
    { numRuns: 20 },
  );
});
