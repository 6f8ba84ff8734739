import { spawnSync } from "node:child_process";
import type { Worker } from "node:worker_threads";

import {
  add,
  ArgumentError,
  attention,
  gatedActivation,
  matmul,
  rmsNorm,
  rope,
  scope,
  softmax,
  svd,
  tensor,
  type AttentionAttributes,
  type Backend,
  type DType,
  type Tensor,
} from "@transmla/core";
import { afterEach, expect, test, vi } from "vitest";

import { backendOn } from "../src/backend.ts";
import { cpuBackend } from "../src/index.ts";
import { Memory, type KernelOptions } from "../src/memory.ts";
import { Pool } from "../src/threads/pool.ts";
import { defaultThreads } from "../src/threads/start.ts";
import { untilShared } from "./modes.ts";

/** Everything that can be divided is. */
const always = { awake: 1, asleep: 1 };

afterEach(() => {
  vi.restoreAllMocks();
});

/** Values of no pattern. */
const values = (length: number, seed: number): Float32Array => {
  return Float32Array.from({ length }, (_, i) => Math.sin(i * 12.9898 + seed) * 3);
};

/** Sizes beyond tiles and blocks, and not multiples of them. */
const operations: Readonly<Record<string, (backend: Backend) => Tensor>> = {
  "matmul by columns": (on) => product(on, 37, 601, 263),
  "matmul by rows": (on) => product(on, 401, 67, 33),
  "matmul of bf16": (on) => product(on, 30, 530, 130, "bf16"),
  "matmul of one row": (on) => product(on, 1, 301, 700),
  "matmul of three rows by columns": (on) => product(on, 3, 301, 700, "bf16", true),
  "matmul of one row by q8": (on) => product(on, 1, 320, 700, "q8", true),
  "matmul of many rows by q4": (on) => product(on, 33, 320, 700, "q4", true),
  "matmul of one column": (on) => product(on, 700, 301, 1, "f32", true),
  add: (on) => add(tensor(on, values(7001, 1), [7001]), tensor(on, values(7001, 2), [7001])),
  gatedActivation: (on) => {
    const [gate, up] = [1, 2].map((seed) => tensor(on, values(7001, seed), [7001]));
    return gatedActivation(gate!, up!, "silu");
  },
  softmax: (on) => softmax(tensor(on, values(131 * 77, 1), [131, 77])),
  "softmax of a view": (on) => softmax(tensor(on, values(131 * 77, 1), [131, 77]).slice(1, 3, 70)),
  "attention of many rows": (on) => attend(on, { T: 150, S: 400, H: 6, G: 2 }),
  "attention of many rows, q8": (on) => attend(on, { T: 70, S: 600, H: 6, G: 2 }, "q8"),
  "attention of one row": (on) => attend(on, { T: 1, S: 3000, H: 6, G: 2 }),
  "attention of one token, many heads": (on) => attend(on, { T: 1, S: 2000, H: 40, G: 2 }),
  "attention of three rows, bf16": (on) => attend(on, { T: 3, S: 2000, H: 4, G: 1 }, "bf16"),
  "attention of one row, q8": (on) => attend(on, { T: 1, S: 2000, H: 9, G: 1, window: 1700 }, "q8"),
  rope: (on) => rotated(on, false),
  "rope of neighbours": (on) => rotated(on, true),
  rmsNorm: (on) => {
    const x = tensor(on, values(131 * 77, 1), [131, 77]);
    return rmsNorm(x, tensor(on, values(77, 2), [77]), { eps: 1e-5, offset: 0 });
  },
};

function rotated(on: Backend, interleaved: boolean): Tensor {
  const [cos, sin] = [1, 2].map((seed) => tensor(on, values(70 * 11, seed), [70, 11]));
  return rope(tensor(on, values(70 * 3 * 22, 3), [70, 3, 22]), cos!, sin!, { interleaved });
}

function attend(
  on: Backend,
  {
    T,
    S,
    H,
    G,
    ...mask
  }: Readonly<Record<"T" | "S" | "H" | "G", number>> & Pick<AttentionAttributes, "cap" | "window">,
  dtype: DType = "f32",
): Tensor {
  const q = tensor(on, values(T * H * 64, 1), [T, H, 64]);
  const k = tensor(on, values(S * G * 64, 2), [S, G, 64], dtype);
  const v = tensor(on, values(S * G * 32, 3), [S, G, 32], dtype);
  return attention(q, k, v, { scale: 0.1, causal: true, ...mask });
}

function product(
  on: Backend,
  m: number,
  k: number,
  n: number,
  dtype: DType = "f32",
  byColumn = false,
): Tensor {
  const a = tensor(on, values(m * k, 1), [m, k]);
  const stored = tensor(on, values(k * n, 2), byColumn ? [n, k] : [k, n], dtype);
  return matmul(a, byColumn ? stored.transpose() : stored);
}

for (const deterministic of [false, true]) {
  const name = deterministic ? "deterministic" : "relaxed";
  test.each(Object.entries(operations))(`%s, ${name}: the same bits`, async (_, operation) => {
    const results: Float32Array[] = [];
    for (const threads of [1, 2, 3]) {
      const mode: KernelOptions = { deterministic, threads, worth: always };
      const backend = backendOn(new Memory(2 ** 32, mode));
      const read = async (): Promise<Float32Array> => {
        using result = scope(() => operation(backend));
        return result.read();
      };
      if (threads > 1) await untilShared(() => scope(() => operation(backend)).dispose());
      vi.restoreAllMocks();
      results.push(await read());
      expect(backend.memory().buffers).toBe(0);
      backend.dispose();
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
  });
}

test("factorisations: the same bits", async () => {
  const factors: Float32Array[][] = [];
  for (const threads of [1, 2, 3]) {
    const backend = backendOn(new Memory(2 ** 32, { threads, worth: always }));
    const a = tensor(backend, values(150 * 110, 4), [150, 110]);
    if (threads > 1) await untilShared(() => scope(() => product(backend, 37, 601, 263)).dispose());
    const { u, s, v } = await svd(a);
    factors.push(await Promise.all([u, s, v].map((factor) => factor.read())));
    backend.dispose();
    vi.restoreAllMocks();
  }
  expect(factors[1]).toEqual(factors[0]);
  expect(factors[2]).toEqual(factors[0]);
});

test("a memory without room for jobs leaves all work to the caller", async () => {
  const post = vi.spyOn(Pool.prototype, "post");
  const [page, size] = [65_536, 64 * 64];
  const results: Float32Array[] = [];
  for (const threads of [1, 2]) {
    const backend = backendOn(new Memory(page, { threads, worth: always }));
    const x = tensor(backend, values(size, 1), [64, 64]);
    const rest = page / 4 - 2 * size; // what is left is the result
    tensor(backend, new Float32Array(rest), [rest]);
    results.push(await softmax(x).read());
    backend.dispose();
  }
  expect(post).toHaveReturnedWith(false);
  expect(results[1]).toEqual(results[0]);
});

test("small work is not divided", () => {
  const post = vi.spyOn(Pool.prototype, "post");
  const backend = backendOn(new Memory(2 ** 32, { threads: 2 }));
  scope(() => void product(backend, 16, 16, 16));
  expect(post).not.toHaveBeenCalled();
  scope(() => void product(backend, 256, 256, 256));
  expect(post).toHaveBeenCalledOnce();
  backend.dispose();
});

test("the memory may grow while workers use it", async () => {
  const backend = backendOn(new Memory(2 ** 32, { threads: 2, worth: always }));
  await untilShared(() => scope(() => product(backend, 37, 601, 263)).dispose());
  const kept: Tensor[] = [];
  let reference: Float32Array | undefined;
  for (let i = 0; i < 30; i++) {
    kept.push(tensor(backend, new Float32Array(2 ** 20).fill(i), [2 ** 20]));
    using result = scope(() => product(backend, 37, 601, 263));
    const read = await result.read();
    reference ??= read;
    expect(read).toEqual(reference);
  }
  backend.dispose();
});

test("a number of threads that is none is refused", async () => {
  for (const threads of [0, -1, 1.5, Number.NaN]) {
    await expect(cpuBackend({ threads })).rejects.toEqual(
      new ArgumentError(`cpuBackend: threads ${threads} is not a positive integer`),
    );
  }
  expect(defaultThreads()).toBeGreaterThanOrEqual(1);
  expect(defaultThreads()).toBeLessThanOrEqual(8);
});

test("without shared memory there is one thread", async () => {
  vi.stubGlobal("SharedArrayBuffer", undefined);
  expect(defaultThreads()).toBe(1);
  const memory = new Memory(2 ** 32, { threads: 4 });
  vi.unstubAllGlobals();
  expect(memory.simd!.threads).toBe(1);
  expect(memory.f32.buffer).toBeInstanceOf(ArrayBuffer);
  memory.dispose();
});

test("50 backends leave no thread behind", async () => {
  const backend = backendOn(new Memory(2 ** 32, { threads: 2, worth: always }));
  const use = (on: Backend): void => scope(() => product(on, 37, 601, 263)).dispose();
  await untilShared(() => use(backend)); // what Node starts once is there now
  backend.dispose();
  const started: Worker[] = [];
  const ended = new Set<Worker>();
  const listen = (worker: Worker): void => {
    started.push(worker);
    worker.once("exit", () => ended.add(worker));
  };
  process.on("worker", listen);
  for (let i = 0; i < 50; i++) {
    const next = backendOn(new Memory(2 ** 32, { threads: 2, worth: always }));
    use(next);
    vi.restoreAllMocks();
    if (i % 10 === 0) await untilShared(() => use(next));
    next.dispose();
  }
  await vi.waitFor(() => expect(ended.size).toBe(50), 20_000);
  process.off("worker", listen);
  expect(started).toHaveLength(50);
});

// Node runs TypeScript from version 22.18 on.
test.skipIf(!process.features.typescript)("a process with threads exits by itself", () => {
  const program = `
      import { cpuBackend } from ${JSON.stringify(import.meta.resolve("../src/index.ts"))};
      import { matmul, tensor } from ${JSON.stringify(import.meta.resolve("@transmla/core"))};
      const backend = await cpuBackend({ threads: 2 });
      const x = tensor(backend, new Float32Array(512 * 512).fill(1), [512, 512]);
      for (let i = 0; i < 20; i++) matmul(x, x).dispose();
      const y = matmul(x, x);
      console.log((await y.read())[0]);
    `;
  const { stdout, status } = spawnSync(
    process.execPath,
    ["--conditions=source", "--no-warnings", "--input-type=module", "--eval", program],
    { encoding: "utf8", timeout: 60_000 },
  );
  expect(stdout).toBe("512\n");
  expect(status).toBe(0);
});
