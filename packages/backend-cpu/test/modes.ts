import { matmul, scope, tensor, type Backend } from "@transmla/core";
import { vi } from "vitest";

import { backendOn } from "../src/backend.ts";
import { Memory, type KernelOptions } from "../src/memory.ts";
import { Pool } from "../src/threads/pool.ts";

/** Threads share whatever can be divided. */
const always = { awake: 1, asleep: 1 };

/**
 * The ways in which kernels compute that tests of models run in, too. Without relaxed instructions an engine computes as the
 * deterministic backend does: the kernels are the same.
 */
export const mainModes: Readonly<Record<string, KernelOptions>> = {
  cpu: {},
  "deterministic cpu": { deterministic: true },
  "cpu without WebAssembly kernels": { webAssembly: false },
  "cpu with 2 threads": { threads: 2, worth: always },
};

/** All ways in which kernels compute. */
export const modes: Readonly<Record<string, KernelOptions>> = {
  ...mainModes,
  "revectorised cpu": { revectorize: true },
  "deterministic cpu with 3 threads": { deterministic: true, threads: 3, worth: always },
};

/** The backend of a mode. Its workers, if it has any, have begun to take part. */
export async function backendIn(mode: KernelOptions): Promise<Backend> {
  const backend = backendOn(new Memory(2 ** 32, mode));
  if ((mode.threads ?? 1) > 1) {
    waitForWorkers();
    await untilShared(() => scope(() => void matmul(square(backend), square(backend))));
  }
  return backend;
}

const square = (backend: Backend) => tensor(backend, new Float32Array(64 * 64), [64, 64]);

// oxlint-disable-next-line typescript/unbound-method -- called on its pool
const { collect } = Pool.prototype;

/** How long it takes a worker to wake up, in milliseconds. */
const WAKING = 0.1;

/** From now on workers have time to begin what they are given: small shares would be taken back before that. */
function waitForWorkers(): void {
  Pool.prototype.collect = function (index) {
    const start = performance.now();
    while (performance.now() - start < WAKING);
    return collect.call(this, index);
  };
}

/**
 * Repeats something until a worker has done a share of it: the first ones are taken back while it starts.
 *
 * @param run - Divides work.
 */
export async function untilShared(run: () => void): Promise<void> {
  const collected = vi.spyOn(Pool.prototype, "collect");
  try {
    for (const start = performance.now(); performance.now() - start < 20_000;) {
      run();
      if (collected.mock.results.some(({ value }) => value === true)) return;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  } finally {
    collected.mockRestore();
  }
  throw new Error("no worker took part");
}
