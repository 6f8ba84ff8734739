import { ArgumentError, fail, StateError, type Backend } from "@transmla/core";

import { Checks } from "./checks.ts";
import { isSoftware, openDevice, type DeviceOptions } from "./device.ts";
import { Gpu, type GpuOperand } from "./gpu.ts";
import { copy } from "./kernels/copy.ts";
import { kernelsOn } from "./kernels/index.ts";
import { routinesOn } from "./linalg/routines.ts";
import type { Memory } from "./linalg/workspace.ts";
import {
  DeviceMemory,
  liveBlock,
  requireRange,
  type DeviceMemoryCount,
  type WebGpuBuffer,
} from "./memory.ts";
import { Pipelines } from "./pipelines.ts";
import { Recorder, type RecorderCount } from "./recorder.ts";

export type { DeviceOptions } from "./device.ts";
export { DeviceLostError } from "./errors.ts";
export type { DeviceMemoryCount, WebGpuBuffer } from "./memory.ts";
export type { RecorderCount } from "./recorder.ts";

/** How many bytes of released buffers are kept for use again. */
const POOLED_BYTES = 2 ** 28;

/** Settings of {@link webgpuBackend}. */
export interface WebGpuBackendOptions extends DeviceOptions {
  /** How many bytes of released buffers are kept for use again; 256 MiB by default. */
  readonly maxPooledBytes?: number;
  /**
   * Whether invocations of a workgroup share memory and wait for each other, as suits a GPU. By default they do unless
   * the device is a processor that imitates one, such as SwiftShader.
   */
  readonly workgroupMemory?: boolean;
}

/** A backend on a WebGPU device. */
export interface WebGpuBackend extends Backend<WebGpuBuffer> {
  /** The device; the backend's own unless it was given one. */
  readonly device: GPUDevice;
  /** What has been done since the backend was made, and the memory of the device. */
  counts(): RecorderCount & DeviceMemoryCount;
}

/**
 * Makes a backend that runs on a GPU through WebGPU: in a browser by `navigator.gpu`, in Node by the package `webgpu`.
 *
 * Operations are recorded and run when a tensor is read. Arithmetic is in f32 whatever the dtype, and results are
 * rounded once. Buffers larger than the device's limits are refused with both sizes. When the device is lost, reads and
 * all later calls throw a `DeviceLostError`; errors of the device are thrown by the next read.
 *
 * @param options - Settings.
 * @throws BackendError where there is no WebGPU, with what to do about it.
 *
 * @example
 * ```ts ignore
 * import { webgpuBackend } from "@transmla/backend-webgpu";
 * import { matmul, tensor } from "@transmla/core";
 * const backend = await webgpuBackend();
 * const x = tensor(backend, [1, 2, 3, 4], [2, 2]);
 * console.log(Array.from(await matmul(x, x).read())); // => [7, 10, 15, 22]
 * ```
 */
export async function webgpuBackend(options: WebGpuBackendOptions = {}): Promise<WebGpuBackend> {
  const device = await openDevice(options);
  const checks = new Checks(device);
  const pipelines = new Pipelines(device, checks);
  const recorder = new Recorder(device, checks, pipelines.uniformLayout);
  const memory = new DeviceMemory(
    device,
    checks,
    (block) => recorder.destroyLater(block),
    options.maxPooledBytes ?? POOLED_BYTES,
  );
  const gpu = new Gpu(recorder, pipelines, memory, {
    cooperative: options.workgroupMemory ?? !isSoftware(device),
    subgroups: device.features.has("subgroups"),
  });
  const functions: Memory = {
    allocate: (bytes) => memory.allocate(bytes),
    release: (buffer) => memory.release(buffer),
    write: (buffer, data) => writeBytes(gpu, recorder, memory, buffer, data),
    read: (buffer, start, length) => readBytes(recorder, memory, buffer, start, length),
  };
  return {
    ...functions,
    name: "webgpu",
    device,
    kernels: kernelsOn(gpu),
    routines: routinesOn(gpu, functions),
    memory: () => memory.count,
    counts: () => ({ ...recorder.count, ...memory.deviceCount }),
    dispose: () => {
      checks.end(new StateError("read: the webgpu backend was disposed of"));
      recorder.dispose();
      memory.trim();
      if (!options.device) device.destroy();
    },
  };
}

/** The device writes whole words; the two bytes of an odd 16-bit element go by a copy of that element. */
function writeBytes(
  gpu: Gpu,
  recorder: Recorder,
  memory: DeviceMemory,
  buffer: WebGpuBuffer,
  data: Uint8Array,
): void {
  requireRange("write", buffer, 0, data.byteLength);
  const block = liveBlock("write", buffer);
  const rest = data.byteLength % 4;
  const whole = data.byteLength - rest;
  if (rest === 0 || data.byteLength === buffer.bytes) {
    const padded = rest === 0 ? data : new Uint8Array(whole + 4);
    if (padded !== data) padded.set(data);
    recorder.write(block, padded);
    return;
  }
  if (rest !== 2) fail(ArgumentError, "write", `${data.byteLength} bytes end inside an element`);
  if (whole > 0) recorder.write(block, data.subarray(0, whole));
  const tail = memory.allocate(4);
  recorder.write(liveBlock("write", tail), Uint8Array.of(data[whole]!, data[whole + 1]!, 0, 0));
  const window = { dtype: "bf16", shape: [1], strides: [1] } as const;
  const out: GpuOperand = { ...window, buffer, offset: whole / 2 };
  copy(gpu, out, [{ ...window, buffer: tail, offset: 0 }], {});
  memory.release(tail);
}

async function readBytes(
  recorder: Recorder,
  memory: DeviceMemory,
  buffer: WebGpuBuffer,
  start: number,
  length: number,
): Promise<Uint8Array> {
  requireRange("read", buffer, start, length);
  if (length === 0) return new Uint8Array(0);
  const first = 4 * Math.floor(start / 4);
  const copied = 4 * Math.ceil((start + length - first) / 4);
  const block = liveBlock("read", buffer);
  const staging = memory.takeStaging(copied);
  try {
    const bytes = await recorder.read(block, staging, first, copied);
    memory.returnStaging(staging);
    return new Uint8Array(bytes, start - first, length);
  } catch (error) {
    staging.destroy();
    throw error;
  }
}
