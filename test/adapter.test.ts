import { expect, test } from "vitest";

import { hasAdapter } from "./adapter.ts";

test.skipIf(!hasAdapter)("a WebGPU adapter was found", () => {
  expect(hasAdapter).toBe(true);
});
