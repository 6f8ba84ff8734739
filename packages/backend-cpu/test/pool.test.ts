import type { Worker } from "node:worker_threads";

import { BackendError } from "@transmla/core";
import { expect, test } from "vitest";

import { emit, kernelNames, type KernelName } from "../src/simd/kernels.ts";
import { Pool, type Job } from "../src/threads/pool.ts";
import { webAssembly } from "../src/webassembly.ts";
import { untilShared } from "./modes.ts";

/** A pool over a memory of one page, and where the results of its jobs are seen. */
function makePool(): { pool: Pool; floats: Float32Array } {
  const shared = new webAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const limits = { shared: true, maximum: 65_536 };
  const memory = {
    shared,
    reserve: (size: number) => ({ offset: 32_768, size }),
    release: () => undefined,
  };
  const pool = new Pool(memory, (kernel) => {
    return emit(kernelNames[kernel]!, { relaxed: false, memory: limits });
  });
  return { pool, floats: new Float32Array(shared.buffer, 0, 8) };
}

function job(kernel: KernelName, ...arguments_: readonly number[]): Job {
  const index = kernelNames.indexOf(kernel);
  return { numbers: [index, arguments_.length, ...arguments_], kernels: new Set([index]) };
}

/** A job of an hour: one row, over and over. */
const endless = job("softmax", 0, 0, 0, 0, 2 ** 31 - 1, 1024);

/** Posts a job until the worker has done it. */
async function done(pool: Pool, index: number, posted: Job): Promise<void> {
  await untilShared(() => {
    pool.post(index, posted);
    const waited = performance.now();
    while (performance.now() - waited < 1); // or the job would be taken back before the worker sees it
    pool.collect(index);
  });
}

test("runs jobs, each by the worker it was given to", async () => {
  const { pool, floats } = makePool();
  floats.fill(1);
  await done(pool, 0, job("scale", 0, 4, 3));
  await done(pool, 1, job("scale", 16, 4, 5));
  pool.requireHealth();
  expect([...floats]).toEqual([3, 3, 3, 3, 5, 5, 5, 5]);
  pool.dispose();
});

test("takes a job back that no worker has begun", () => {
  const { pool, floats } = makePool();
  floats.fill(1);
  pool.post(0, job("scale", 0, 4, 3)); // the worker has not started yet
  expect(pool.collect(0)).toBe(false);
  expect([...floats]).toEqual(Array(8).fill(1));
  pool.dispose();
});

test("goes on when a worker has slept", async () => {
  const { pool, floats } = makePool();
  floats.fill(1);
  await done(pool, 0, job("scale", 0, 1, 2));
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(pool.isAwake(0)).toBe(false);
  await done(pool, 0, job("scale", 4, 1, 2));
  expect([...floats.subarray(0, 2)]).toEqual([2, 2]);
  pool.dispose();
});

test("a job that traps is an error of the next use, and of all later ones", async () => {
  const { pool } = makePool();
  await done(pool, 0, job("scale", 65_536, 4, 3));
  const failed = new BackendError(
    "threads: a worker failed: RuntimeError: memory access out of bounds; results may be lost: make a new backend",
  );
  expect(() => pool.requireHealth()).toThrow(failed);
  expect(() => pool.post(0, job("scale", 0, 4, 3))).toThrow(failed);
  pool.dispose();
});

/** A pool, and the one worker that it has started. */
async function poolWithWorker(): Promise<{ pool: Pool; worker: Worker }> {
  const workers: Worker[] = [];
  const listen = (worker: Worker): void => void workers.push(worker);
  process.on("worker", listen);
  const { pool } = makePool();
  await done(pool, 0, job("scale", 0, 1, 1));
  process.off("worker", listen);
  expect(workers).toHaveLength(1);
  return { pool, worker: workers[0]! };
}

test("a worker that ends is an error of the next use", async () => {
  const { pool, worker } = await poolWithWorker();
  await worker.terminate();
  expect(() => pool.post(0, job("scale", 0, 1, 1))).toThrow(
    new BackendError(
      "threads: a worker failed: it exited with code 1; results may be lost: make a new backend",
    ),
  );
  pool.dispose();
});

test("a worker that is killed during a job is an error, not an endless wait", async () => {
  const { pool, worker } = await poolWithWorker();
  for (let begun = false; !begun;) {
    pool.post(0, endless);
    const posted = performance.now();
    while (performance.now() - posted < 10);
    void worker.terminate(); // the event of its exit cannot come before the caller is done waiting
    begun = pool.collect(0);
  }
  expect(() => pool.requireHealth()).toThrow(
    new BackendError(
      "threads: a worker failed: it ended during a job; results may be lost: make a new backend",
    ),
  );
  pool.dispose();
});
