import { cpuBackend } from "@transmla/backend-cpu";
import { webgpuBackend } from "@transmla/backend-webgpu";
import { BackendError, type Backend } from "@transmla/core";

/** A backend, and what the page says of it. */
export interface Choice {
  readonly backend: Backend;
  readonly description: string;
  /** Whether a GPU was wanted but not found. */
  readonly isFallback: boolean;
}

/** WebGPU where the browser has it, unless the address ends in `?backend=cpu`; else the CPU. */
export async function chooseBackend(): Promise<Choice> {
  if (new URLSearchParams(location.search).get("backend") === "cpu") {
    return {
      backend: await cpuBackend(),
      description: "Runs on the CPU, as asked",
      isFallback: false,
    };
  }
  try {
    const backend = await webgpuBackend({ powerPreference: "high-performance" });
    const { vendor, architecture, description } = backend.device.adapterInfo;
    const name = description || [vendor, architecture].filter(Boolean).join(" ") || "unnamed GPU";
    return { backend, description: `Runs on WebGPU: ${name}`, isFallback: false };
  } catch (error) {
    if (!(error instanceof BackendError)) throw error;
    return {
      backend: await cpuBackend(),
      description: "Runs on the CPU: this browser gives no WebGPU device",
      isFallback: true,
    };
  }
}
