import { conformance } from "@transmla/core/testing";
import { describe } from "vitest";

import { hasAdapter } from "../../../test/adapter.ts";
import { webgpuBackend } from "../src/index.ts";

describe.skipIf(!hasAdapter)("on this machine's adapter", () => {
  conformance("webgpu", () => webgpuBackend());
});
