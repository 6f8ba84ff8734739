import { matmul, scope, tensor, type Backend, type Tensor } from "@transmla/core";
import { expect, test, vi } from "vitest";

import { backendOn } from "../src/backend.ts";
import { Memory } from "../src/memory.ts";
import { Pool } from "../src/threads/pool.ts";
import { canShare } from "../src/threads/start.ts";

test("in an isolated page Web Workers take part, and the bits stay the same", async () => {
  expect(canShare()).toBe(true);
  const product = (backend: Backend): Tensor => {
    const x = Float32Array.from({ length: 300 * 300 }, (_, i) => Math.sin(i));
    return scope(() => matmul(tensor(backend, x, [300, 300]), tensor(backend, x, [300, 300])));
  };
  const [alone, together] = [1, 2].map((threads) => {
    return backendOn(new Memory(2 ** 32, { threads, worth: { awake: 1, asleep: 1 } }));
  }) as [Backend, Backend];
  const collect = vi.spyOn(Pool.prototype, "collect");
  // A page waits for its workers without sleeping; while they start it computes alone.
  await vi.waitFor(
    () => {
      product(together).dispose();
      expect(collect.mock.results.some(({ value }) => value === true)).toBe(true);
    },
    { timeout: 20_000, interval: 5 },
  );
  expect(await product(together).read()).toEqual(await product(alone).read());
  for (const backend of [alone, together]) backend.dispose();
});
