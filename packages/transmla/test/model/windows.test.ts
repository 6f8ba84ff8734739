// Layers with a window hold little more than the window, and nothing of the result depends on it.
import type { Backend } from "@transmla/core";
import { afterEach, describe, expect, test } from "vitest";

import type { ConversionMethod } from "../../src/convert/conversion.ts";
import { convert } from "../../src/convert/convert.ts";
import type { Model } from "../../src/model/model.ts";
import { cpuBackends } from "../backends.ts";
import { modelLogits, onBackend, sourceModel } from "../spec/inputs/models.ts";

/** A random Mistral model that looks eight positions back, with a context of 400 tokens. */
function windowed(backend: Backend): Model {
  const size = {
    layers: 2,
    hidden: 16,
    heads: 4,
    kvHeads: 2,
    headDim: 4,
    biased: false,
    tied: true,
    eps: 1e-6,
    rope: { rope_type: "default" as const, rope_theta: 10_000 },
    tokens: 1,
    seed: 3,
  };
  const { json, tensors, tokens } = sourceModel({ ...size, family: "mistral" });
  const config = { ...json, sliding_window: 8, max_position_embeddings: 400 };
  return onBackend(backend, { json: config, tensors, tokens });
}

const ids = Array.from({ length: 300 }, (_, i) => (i * 7919) % 61);
const cut = (size: number): number[][] =>
  Array.from({ length: Math.ceil(ids.length / size) }, (_, i) =>
    ids.slice(i * size, (i + 1) * size),
  );

const forms: Readonly<Record<string, ConversionMethod | undefined>> = {
  grouped: undefined,
  factored: { method: "factored" },
  merged: { method: "merged", target: "own" },
};

describe.each(cpuBackends)("%s", (_, backend) => {
  afterEach(() => expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 }));

  describe.each(Object.entries(forms))("%s attention", (_, form) => {
    test.each([1, 7, 63, 64, 100])(
      "in pieces of %i tokens gives the logits of one pass",
      async (size) => {
        using source = windowed(backend);
        using model = form ? await convert(source, form) : source;
        const whole = await modelLogits(model, [ids]);
        const pieces = await modelLogits(model, cut(size));
        const largest = Math.max(
          ...whole.map((row, t) => Math.max(...row.map((x, i) => Math.abs(x - pieces[t]![i]!)))),
        );
        expect(largest).toBeLessThan(1e-4);
      },
    );
  });

  test("the cache holds the window and 64 more positions", () => {
    using model = windowed(backend);
    using cache = model.createCache(400);
    expect(cache.bytes).toBe(2 * (8 - 1 + 64) * 16 * 4);
  });

  test("a sequence rolls back as far as its window is held, or to the start", async () => {
    using model = windowed(backend);
    using cache = model.createCache(400);
    model.forward(ids.slice(0, 200), cache).dispose();
    expect(cache.holds(195)).toBe(true);
    cache.rollback(195);
    using again = model.forward(ids.slice(195, 200), cache);
    using fresh = model.createCache(400);
    using expected = model.forward(ids.slice(0, 200), fresh);
    const [a, b] = [await again.read(), await expected.read()];
    expect(Math.max(...a.map((x, i) => Math.abs(x - b[i]!)))).toBeLessThan(1e-4);
    expect(() => cache.rollback(20)).toThrow(
      "cache: cannot roll back from 200 to 20 positions: a window has moved on; roll back to 0",
    );
    cache.rollback(0);
    expect(cache.length).toBe(0);
  });
});
