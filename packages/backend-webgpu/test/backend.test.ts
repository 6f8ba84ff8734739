import { add, affine, full, scope, StateError, sum, tensor, type Tensor } from "@transmla/core";
import { consume, expectIdentical } from "@transmla/core/testing";
import { afterEach, describe, expect, test } from "vitest";

import { hasAdapter } from "../../../test/adapter.ts";
import { Checks } from "../src/checks.ts";
import { openDevice } from "../src/device.ts";
import { DeviceLostError, webgpuBackend, type WebGpuBackendOptions } from "../src/index.ts";
import { Pipelines } from "../src/pipelines.ts";
import { Recorder } from "../src/recorder.ts";
import { read, shader, write } from "../src/shader.ts";

const open: { dispose(): void }[] = [];
afterEach(() => {
  for (const backend of open.splice(0)) backend.dispose();
});
async function makeBackend(options: WebGpuBackendOptions = {}) {
  const backend = await webgpuBackend(options);
  open.push(backend);
  return backend;
}

/** `x + 1`, so many times. */
const chain = (x: Tensor, times: number): Tensor =>
  scope<Tensor>(() => {
    let y = x;
    for (let i = 0; i < times; i++) y = affine(y, 1, 1);
    return y;
  });

describe.skipIf(!hasAdapter)("recording", () => {
  test("a chain of operations is one submission, made by the read", async () => {
    const backend = await makeBackend();
    const y = chain(full(backend, [8], 0), 200);
    expect(backend.counts()).toMatchObject({ submits: 0, dispatches: 0 });
    expectIdentical((await consume(y)).values, new Float32Array(8).fill(200));
    expect(backend.counts()).toMatchObject({ submits: 1, dispatches: 201, bytesRead: 32 });
  });

  test("a bounded number of operations is pending", async () => {
    const backend = await makeBackend();
    const y = chain(full(backend, [8], 0), 2500);
    expect(backend.counts().submits).toBe(2);
    expectIdentical((await consume(y)).values, new Float32Array(8).fill(2500));
  });

  test("a write flushes the work that uses its buffer first, and no other work", async () => {
    const backend = await makeBackend();
    const x = tensor(backend, [1, 2, 3, 4], [4]);
    const sum = add(x, x);
    const other = tensor(backend, [5], [1]);
    expect(backend.counts().submits).toBe(0);
    x.dispose();
    const recycled = tensor(backend, [9, 9, 9, 9], [4]);
    expect(backend.counts().submits).toBe(1);
    expectIdentical((await consume(sum)).values, [2, 4, 6, 8]);
    expectIdentical((await consume(recycled)).values, [9, 9, 9, 9]);
    other.dispose();
  });

  test("bind groups are kept for buffers that exist, and used again", async () => {
    const backend = await makeBackend({ maxPooledBytes: 4096 });
    const x = full(backend, [4], 1);
    await consume(chain(x, 20));
    const { bindGroups } = backend.counts();
    await consume(chain(x, 20));
    expect(backend.counts().bindGroups).toBe(bindGroups);
    const large = full(backend, [2048], 0); // beyond the pool: destroyed when released
    large.dispose();
    await x.read();
    expect(backend.counts().bindGroups).toBe(bindGroups);
    x.dispose();
  });
});

describe.skipIf(!hasAdapter)("memory", () => {
  test("released buffers serve again, up to the cap, and nothing is destroyed that work still needs", async () => {
    const backend = await makeBackend({ maxPooledBytes: 20_000 });
    const first = full(backend, [4000], 1);
    const second = full(backend, [4000], 2);
    const total = add(first, second);
    first.dispose();
    second.dispose(); // no room in the pool: destroyed after the submission
    const { liveBytes, pooledBytes, peakBytes } = backend.counts();
    expect([liveBytes, pooledBytes, peakBytes]).toEqual([16384, 16384, 3 * 16384]);
    expectIdentical((await total.read()).subarray(0, 2), [3, 3]);
    full(backend, [3999], 0).dispose();
    expect(backend.counts().peakBytes).toBe(3 * 16384);
    total.dispose();
  });

  test("a buffer beyond the limits is refused with both sizes", async () => {
    const backend = await makeBackend();
    const { maxBufferSize, maxStorageBufferBindingSize } = backend.device.limits;
    const limit = Math.min(maxBufferSize, maxStorageBufferBindingSize);
    expect(() => backend.allocate(limit + 4)).toThrow(
      `allocate: a buffer of ${limit + 4} bytes exceeds the device's limit of ${limit}`,
    );
    expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
  });

  test("the limits of the device are those of the adapter", async () => {
    const device = await openDevice({});
    expect(device.limits.maxBufferSize).toBeGreaterThan(2 ** 28); // the default of WebGPU
    device.destroy();
  });

  test("more workgroups than one dimension holds are spread over two", async () => {
    const backend = await makeBackend();
    const pairs = 2 ** 23 + 7; // 65,535 workgroups of 256 elements, or of 64 rows, are fewer
    const x = full(backend, [pairs, 2], 1, 1);
    const sums = sum(x);
    for (const rows of [0, 65_535 * 64 - 1, 65_535 * 64, pairs - 1]) {
      expectIdentical((await consume(sums.slice(0, rows, rows + 1))).values, [3]);
      expectIdentical((await consume(x.slice(0, rows, rows + 1))).values, [1, 2]);
    }
    x.dispose();
    sums.dispose();
  });
});

describe.skipIf(!hasAdapter)("a device that is lost", () => {
  test("rejects pending reads and later calls with the reason; a new backend works", async () => {
    const device = await openDevice({});
    const backend = await makeBackend({ device });
    const x = full(backend, [4], 1);
    const reading = x.read();
    device.destroy();
    await expect(reading).rejects.toThrow(DeviceLostError);
    await expect(reading).rejects.toMatchObject({ reason: "destroyed" });
    await expect(reading).rejects.toThrow("make a new backend and load again");
    await expect(x.read()).rejects.toThrow(DeviceLostError);
    expect(() => affine(x, 1, 1)).toThrow(DeviceLostError);
    expect(() => full(backend, [4], 1)).toThrow(DeviceLostError);
    x.dispose();
    const next = await makeBackend();
    expectIdentical((await consume(full(next, [2], 7))).values, [7, 7]);
  });

  test("is not the fault of dispose(), which leaves a device of the caller's", async () => {
    const device = await openDevice({});
    const backend = await webgpuBackend({ device });
    const x = full(backend, [4], 1);
    const reading = x.read();
    backend.dispose();
    await expect(reading).rejects.toThrow(StateError);
    expect(() => full(backend, [4], 1)).toThrow("the webgpu backend was disposed of");
    const again = await makeBackend({ device });
    expectIdentical((await consume(full(again, [1], 5))).values, [5]);
    device.destroy();
  });
});

describe.skipIf(!hasAdapter)("errors of the device", () => {
  /** The device, reporting an error for the next call in a scope of that kind. */
  const failing = (device: GPUDevice, kind: GPUErrorFilter): GPUDevice => {
    const scopes: GPUErrorFilter[] = [];
    let left = 1;
    const changes: Partial<GPUDevice> = {
      pushErrorScope: (filter) => {
        scopes.push(filter);
        device.pushErrorScope(filter);
        return undefined;
      },
      popErrorScope: async () => {
        const fails = scopes.pop() === kind && left-- === 1;
        const error = await device.popErrorScope();
        return fails ? { message: "there is no more" } : error;
      },
    };
    return new Proxy(device, {
      get: (target, name) => {
        if (name in changes) return Reflect.get(changes, name) as unknown;
        const value = Reflect.get(target, name, target) as unknown;
        return typeof value === "function" ? (value.bind(target) as unknown) : value;
      },
    });
  };

  test("memory that the device does not have is said by the next read", async () => {
    const device = failing(await openDevice({}), "out-of-memory");
    const backend = await makeBackend({ device });
    const x = full(backend, [100], 1);
    await expect(x.read()).rejects.toThrow(
      "allocate 400 bytes beside 0: out-of-memory error: there is no more",
    );
    expectIdentical((await x.read()).subarray(0, 1), [1]); // said once
    x.dispose();
    device.destroy();
  });

  test("a shader that does not compile is named, with the line, by the next read and by later calls", async () => {
    const device = await openDevice({});
    const checks = new Checks(device);
    const pipelines = new Pipelines(device, checks);
    const recorder = new Recorder(device, checks, pipelines.uniformLayout);
    const broken = shader({
      name: "broken",
      options: { x: ["f32"] },
      bindings: ({ x }) => ({ out: write(x), x: read(x) }),
      params: {},
      body: () => "store_out(lane, nothing);",
    });
    const pipeline = pipelines.get(broken, { x: "f32" });
    const block = (id: number) => ({
      id,
      gpu: device.createBuffer({ size: 256, usage: 0x8c }),
      size: 256,
      batch: -1,
    });
    const [out, x, staging] = [block(0), block(1), device.createBuffer({ size: 256, usage: 0x9 })];
    recorder.dispatch(pipeline, [out, x], {}, 1);
    await expect(recorder.read(out, staging, 0, 4)).rejects.toThrow(
      /^broken\(f32\): line \d+: unresolved value 'nothing'/,
    );
    expect(() => recorder.dispatch(pipeline, [out, x], {}, 1)).toThrow(/^broken\(f32\): line/);
    device.destroy();
  });
});
