import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { cpuBackend } from "@transmla/backend-cpu";
import { expect, test } from "vitest";

import { bundledModel } from "../src/bundled.ts";
import { generate } from "../src/generate/generate.ts";
import { loadModel } from "../src/load.ts";
import type { Model } from "../src/model/model.ts";

// What the process holds after a garbage collection moves by up to 20 MiB (compiled code, and memory that the allocator of
// the C library keeps). A leak would show: of one row of logits a token by 2 MiB of live bytes, which must not move at all;
// of one model a cycle by 220 MiB.
const MARGIN = 64 * 2 ** 20;

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

function residentBytes(): number {
  collectGarbage();
  return process.memoryUsage.rss();
}

async function generateTokens(model: Model, count: number, seed: number): Promise<number> {
  let tokens = 0;
  const options = { maxTokens: count, ignoreEnd: true, seed };
  for await (const { id } of generate(model, "ROMEO:", options)) tokens += Number(id >= 0);
  return tokens;
}

test("1,000 generated tokens leave nothing behind", { timeout: 300_000 }, async () => {
  const backend = await cpuBackend();
  using model = await loadModel(bundledModel, { backend });
  const live = backend.memory();
  await generateTokens(model, 200, 0);
  const before = residentBytes();
  let tokens = 0;
  for (let seed = 1; seed <= 5; seed++) tokens += await generateTokens(model, 200, seed);
  expect(tokens).toBe(1000);
  expect(backend.memory()).toEqual(live);
  expect(residentBytes() - before).toBeLessThan(MARGIN);
});

test.each([
  ["on one backend", false],
  ["each on a backend of its own", true],
])(
  "50 models, loaded and disposed of %s, leave nothing behind",
  { timeout: 300_000 },
  async (_, own) => {
    let backend = await cpuBackend({ threads: 2 });
    let before = 0;
    for (let cycle = 0; cycle < 60; cycle++) {
      if (cycle === 10) before = residentBytes();
      if (own) {
        backend.dispose();
        backend = await cpuBackend({ threads: 2 });
      }
      {
        using model = await loadModel(bundledModel, { backend });
        await generateTokens(model, 2, cycle);
      }
      expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
    }
    expect(residentBytes() - before).toBeLessThan(MARGIN);
    backend.dispose();
  },
);
