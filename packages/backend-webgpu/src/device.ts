/// <reference types="@webgpu/types" preserve="true" />
import { BackendError, fail } from "@transmla/core";

/** Which device {@link webgpuBackend} takes. */
export interface DeviceOptions {
  /**
   * A device of the caller's, who keeps it: `dispose()` of the backend does not destroy it. Its limits are the
   * backend's. By default the backend asks the adapter for a device of its own with all that the adapter offers.
   */
  readonly device?: GPUDevice;
  /** Which adapter is preferred where there are several. */
  readonly powerPreference?: GPUPowerPreference;
}

/** Features that kernels use where the adapter has them. */
const WANTED: readonly GPUFeatureName[] = ["shader-f16", "subgroups"];

/** Limits that are raised to what the adapter offers: sizes of buffers and bindings, and of workgroups. */
const RAISED = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupStorageSize",
] as const;

// Never emptied: webgpu@0.6.2 ends the process (SIGSEGV or SIGABRT) when the object that `create()` returned is
// garbage-collected, also after the device was destroyed; neither adapter nor device keeps it alive.
const kept = new Set<GPU>();

/**
 * The caller's device, or a new one.
 *
 * @param options - Which device.
 * @throws BackendError where there is no WebGPU, no adapter or no device; the message says what to do.
 */
export async function openDevice(options: DeviceOptions): Promise<GPUDevice> {
  if (options.device) return options.device;
  const gpu = await findGpu();
  const { powerPreference } = options;
  const adapter = await gpu.requestAdapter(powerPreference ? { powerPreference } : {});
  if (!adapter) {
    return fail(
      BackendError,
      "webgpuBackend",
      "no WebGPU adapter: the system has no driver for a GPU, or the browser does not use it",
    );
  }
  const requiredLimits = Object.fromEntries(RAISED.map((limit) => [limit, adapter.limits[limit]]));
  const requiredFeatures = WANTED.filter((feature) => adapter.features.has(feature));
  try {
    return await adapter.requestDevice({ requiredFeatures, requiredLimits });
  } catch (error) {
    return fail(BackendError, "webgpuBackend", `the adapter gave no device: ${String(error)}`);
  }
}

/** `navigator.gpu` of a browser, else the npm package `webgpu`. */
async function findGpu(): Promise<GPU> {
  const { navigator, process } = globalThis as {
    readonly navigator?: { readonly gpu?: GPU };
    readonly process?: { readonly versions?: { readonly node?: string } };
  };
  if (navigator?.gpu) return navigator.gpu;
  if (process?.versions?.node === undefined) {
    return fail(
      BackendError,
      "webgpuBackend",
      "this browser has no WebGPU here: use a current one, on a page served by https or localhost",
    );
  }
  const [gpu] = kept;
  if (gpu) return gpu;
  const created = (await importWebgpu()).create([]);
  kept.add(created);
  return created;
}

async function importWebgpu(): Promise<{ create(options: readonly string[]): GPU }> {
  const name = "webgpu"; // a variable, so that bundlers for browsers do not look for it
  try {
    return (await import(/* @vite-ignore */ name)) as { create(options: readonly string[]): GPU };
  } catch (error) {
    return fail(
      BackendError,
      "webgpuBackend",
      `Node needs the package webgpu; run npm install webgpu@0.6.2 (${String(error)})`,
    );
  }
}

/**
 * Whether the device is a processor that imitates a GPU. There, barriers and workgroup memory cost several times what
 * they save on a GPU.
 *
 * @param device - Any device.
 */
export function isSoftware({ adapterInfo }: GPUDevice): boolean {
  const { vendor, architecture, description, isFallbackAdapter } = adapterInfo;
  const names = `${vendor} ${architecture} ${description}`.toLowerCase();
  return isFallbackAdapter || /swiftshader|llvmpipe|lavapipe/.test(names);
}
