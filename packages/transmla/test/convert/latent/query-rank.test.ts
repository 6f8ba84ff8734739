import { readFileSync } from "node:fs";
// Queries through a narrow latent.
import { join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { matrix, multiply, transpose } from "@transmla/core/linalg";
import { afterEach, expect, test } from "vitest";

import { bundledModel } from "../../../src/bundled.ts";
import { convert } from "../../../src/convert/convert.ts";
import { factorQueries } from "../../../src/convert/latent/steps/query-factors.ts";
import { compare, cutWindows } from "../../../src/evaluate/evaluate.ts";
import { loadModel } from "../../../src/load.ts";
import { Random } from "../../spec/inputs/random.ts";

const backend = await cpuBackend();
afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

test("half of the rank costs little, much less costs more, and that of the inputs nothing", async () => {
  using model = await loadModel(bundledModel, { backend });
  const text = readFileSync(join(bundledModel, "sample.txt"), "utf8");
  const windows = cutWindows(model.assets.tokenizer!.encode(text), 128);
  const calibration = windows.slice(0, 4);
  const divergence = async (options: object): Promise<number> => {
    const sizes = { ropeDim: 24, latentRank: 72, calibration };
    using latent = await convert(model, { method: "latent", ...sizes, ...options });
    const [found] = await compare(model, [latent], windows.slice(-2));
    return found!.meanKl;
  };
  const full = await divergence({});
  const nearly = await divergence({ queryRank: 192 }); // the width of the inputs
  const [half, small] = [await divergence({ queryRank: 96 }), await divergence({ queryRank: 8 })];
  expect(Math.abs(nearly / full - 1)).toBeLessThan(0.01);
  expect(half).toBeLessThan(1.2 * full);
  expect(small).toBeGreaterThan(1.5 * full);
});

test("in its metric the factors are better than principal components, which are better without it", () => {
  const random = new Random(1);
  const [heads, d, width, rank] = [3, 4, 16, 5];
  const draw = (rows: number, cols: number): ReturnType<typeof matrix> =>
    matrix(
      rows,
      cols,
      Float64Array.from({ length: rows * cols }, () => random.gaussian()),
    );
  const square = (a: ReturnType<typeof matrix>): ReturnType<typeof matrix> =>
    multiply(a, transpose(a));
  const q = draw(heads * d, width);
  const inputs = square(draw(width, 2 * width));
  const metrics = Array.from({ length: heads }, (_, h) => {
    const metric = square(draw(d, d));
    return { ...metric, data: metric.data.map((x) => x * 10 ** h) };
  });
  const cost = (weighted: boolean, metric: boolean): number => {
    const { up, down } = factorQueries(q, inputs, rank, weighted ? metrics : undefined);
    const product = multiply(up, down);
    const error = { ...q, data: q.data.map((x, i) => x - product.data[i]!) };
    const moment = multiply(multiply(error, inputs), transpose(error));
    let sum = 0;
    for (let i = 0; i < heads * d; i++) {
      for (let j = 0; j < d; j++) {
        const [h, a] = [Math.floor(i / d), i % d];
        const entry = moment.data[i * heads * d + h * d + j]!;
        sum += metric ? entry * metrics[h]!.data[a * d + j]! : Number(a === j) * entry;
      }
    }
    return sum;
  };
  expect(cost(true, true)).toBeLessThan(0.9 * cost(false, true));
  expect(cost(false, false)).toBeLessThan(0.9 * cost(true, false));
});

test.each([0, 256, 2.5])("a rank of %d is refused", async (queryRank) => {
  using model = await loadModel(bundledModel, { backend });
  const options = { method: "latent", ropeDim: 24, latentRank: 72, calibration: [[1, 2]] } as const;
  await expect(convert(model, { ...options, queryRank })).rejects.toThrow(
    `convert: queryRank ${queryRank} must be from 1 to 255, less than the width of all heads`,
  );
});
