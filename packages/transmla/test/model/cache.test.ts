import { describe, expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import { loadModel } from "../../src/load.ts";
import { cacheBytes } from "../../src/model/cache-size.ts";
import { Model } from "../../src/model/model.ts";
import { cpuBackends } from "../backends.ts";

describe.each(
  await Promise.all(
    cpuBackends.map(
      async ([name, backend]) =>
        [name, backend, await loadModel(bundledModel, { backend })] as const,
    ),
  ),
)("%s", (_, backend, model) => {
  const loaded = backend.memory();

  async function lastLogits(
    ids: readonly number[],
    cache: ReturnType<Model["createCache"]>,
  ): Promise<number[]> {
    using logits = model.forward(ids, cache);
    return [...(await logits.read())];
  }

  test("rolling back forgets what came after", async () => {
    {
      using cache = model.createCache(16);
      const first = await lastLogits([5, 6, 7], cache);
      await lastLogits([8, 9], cache);
      expect(cache.length).toBe(5);
      cache.rollback(2);
      expect(await lastLogits([7], cache)).toEqual(
        first.map((x) => expect.closeTo(x, 4) as number),
      );
    }
    expect(backend.memory()).toEqual(loaded);
  });

  test("a full cache refuses more and stays as it is", async () => {
    using cache = model.createCache(4);
    await lastLogits([1, 2, 3], cache);
    expect(() => model.forward([4, 5], cache)).toThrow(
      "cache: 3 cached positions and 2 new ones exceed the capacity of 4",
    );
    expect(cache.length).toBe(3);
    await lastLogits([4], cache);
  });

  test("bytes are layers x capacity x numbers x width", () => {
    using cache = model.createCache(10);
    expect(cache.bytes).toBe(6 * 10 * 256 * 4);
    using half = model.createCache(10, "bf16");
    expect(half.bytes).toBe(6 * 10 * 256 * 2);
    using blocks = model.createCache(10, "q8");
    expect(blocks.bytes).toBe((6 * 10 * 256 * 36) / 32);
    expect(blocks.bytes).toBe(cacheBytes(model.config, 10, "q8"));
  });

  test.each(["bf16", "q8"] as const)("a %s cache gives nearly the same logits", async (dtype) => {
    const ids = [10, 20, 30, 40, 50, 60];
    using exact = model.createCache(8);
    using rounded = model.createCache(8, dtype);
    const [a, b] = [await lastLogits(ids, exact), await lastLogits(ids, rounded)];
    const largest = Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));
    expect(largest).toBeGreaterThan(0);
    expect(largest).toBeLessThan(0.5);
  });

  test("what cannot be asked for", () => {
    expect(() => model.createCache(0)).toThrow("cache: capacity 0 must be a positive integer");
    using cache = model.createCache(4);
    expect(() => cache.rollback(1)).toThrow("cache: cannot roll back from 0 to 1 positions");
    expect(() => model.forward([], cache)).toThrow(
      "forward: there are no tokens; a sequence needs at least one",
    );
  });

  test("a model says what is wrong with its weights and frees them", async () => {
    const before = backend.memory();
    const copy = async (): Promise<
      Map<string, typeof model.tensors extends ReadonlyMap<string, infer T> ? T : never>
    > => {
      const { tensor } = await import("@transmla/core");
      const entries = [...model.tensors].map(
        async ([name, x]) => [name, tensor(backend, await x.read(), x.shape)] as const,
      );
      return new Map(await Promise.all(entries));
    };
    const missing = await copy();
    missing.get("model.norm.weight")!.dispose();
    missing.delete("model.norm.weight");
    expect(() => new Model(backend, model.huggingFaceConfig, missing, model.assets)).toThrow(
      "model.norm.weight [192] is missing",
    );
    const extra = await copy();
    extra.set("model.layers.9.mlp.bias", extra.get("model.norm.weight")!);
    expect(() => new Model(backend, model.huggingFaceConfig, extra, model.assets)).toThrow(
      "model.layers.9.mlp.bias not used by a llama model",
    );
    expect(backend.memory()).toEqual(before);
  });
});
