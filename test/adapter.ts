import { inject } from "vitest";

declare module "vitest" {
  interface ProvidedContext {
    /** Whether tests that need a WebGPU adapter fail where there is none; they are skipped otherwise. */
    adapterRequired: boolean;
    /** The path of the browser of the tests; there may be none. */
    chromium: string;
  }
}

const gpu: GPU = globalThis.navigator?.gpu ?? (await import("webgpu")).create([]);
const adapter = await gpu.requestAdapter();
const missing =
  "no WebGPU adapter: neither a GPU's driver nor the software one of @sparticuz/chromium is usable here";
if (adapter === null && inject("adapterRequired")) throw new Error(missing);
if (adapter === null) console.warn(`WebGPU tests are SKIPPED: ${missing}`);

/** Whether WebGPU works here: `describe.skipIf(!hasAdapter)`. Where CI is set, a missing adapter is an error instead. */
export const hasAdapter: boolean = adapter !== null;
