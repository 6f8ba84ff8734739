import { conformance } from "@transmla/core/testing";
import { describe } from "vitest";

import { hasAdapter } from "../../../test/adapter.ts";
import { webgpuBackend } from "../src/index.ts";

// A software adapter on a busy machine is slow.
describe.skipIf(!hasAdapter)("on this machine's adapter", { timeout: 300_000 }, () => {
  // Each kind of operands is a shader of its own, which takes a software adapter longer to compile than to run.
  conformance("webgpu", () => webgpuBackend({ workgroupMemory: false }), { shareOfRuns: 1 / 5 });
});
