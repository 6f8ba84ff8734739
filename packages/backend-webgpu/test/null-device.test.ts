import { beforeAll, describe, expect, test } from "vitest";
import { create } from "webgpu";

import { shaders as kernels } from "../src/kernels/index.ts";
import { shaders as factorisations } from "../src/linalg/shaders/index.ts";
import { combinations, moduleText } from "../src/shader.ts";

// Dawn's null device validates shaders and runs nothing: it needs no driver.
const gpu = create(["backend=null"]);

/** Has the limits that every adapter has. */
let device: GPUDevice;
beforeAll(async () => {
  const adapter = (await gpu.requestAdapter())!;
  device = await adapter.requestDevice({ requiredFeatures: ["shader-f16", "subgroups"] });
});

describe("every combination of options compiles", () => {
  test.each([...kernels, ...factorisations])("$name", { timeout: 300_000 }, async (shader) => {
    const all = combinations(shader);
    expect(all.length).toBeGreaterThan(0);
    for (const options of all) {
      device.pushErrorScope("validation");
      const module = device.createShaderModule({ code: moduleText(shader, options) });
      device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
      const error = await device.popErrorScope();
      expect({ options, problem: error?.message }).toEqual({ options, problem: undefined });
    }
  });
});

test("a fault is found", async () => {
  device.pushErrorScope("validation");
  device.createShaderModule({ code: "fn main() { let x: u32 = 1.5; }" });
  expect((await device.popErrorScope())?.message).toMatch(/cannot assign|type/);
});
