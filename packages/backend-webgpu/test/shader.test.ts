import { expect, test } from "vitest";

import { shaders } from "../src/kernels/index.ts";
import { combinations, moduleText, placeParameters, read, shader, write } from "../src/shader.ts";

test("binding numbers are the order of the declarations, and parameters follow the rules of WGSL", () => {
  const example = shader({
    name: "example",
    options: { x: ["f32", "bf16"] },
    bindings: ({ x }) => ({ out: write("f32", 4), x: read(x), y: read("q8", 4) }),
    params: { count: "u32", strides: "vec4u", scale: "f32" },
    body: () => "store_out(lane, load_y(lane) * load_x(lane) * params.scale);",
  });
  const text = moduleText(example, { x: "bf16" });
  expect(text.match(/@binding.*;/g)).toEqual([
    "@binding(0) var<uniform> params: Params;",
    "@binding(0) var<storage, read_write> out: array<vec4<f32>>;",
    "@binding(1) var<storage, read> x: array<u32>;",
    "@binding(2) var<storage, read> y: array<u32>;",
  ]);
  // A vec4u begins at a multiple of 16 bytes; the number of workgroups comes first.
  expect(placeParameters(example.params).map(({ name, at }) => [name, at])).toEqual([
    ["count", 1],
    ["strides", 4],
    ["scale", 8],
  ]);
  expect(combinations(example)).toEqual([{ x: "f32" }, { x: "bf16" }]);
});

test("names of shaders are distinct, and parameters fit a uniform slot", () => {
  expect(new Set(shaders.map(({ name }) => name)).size).toBe(shaders.length);
  for (const { params } of shaders) {
    const { at, type } = placeParameters(params).at(-1)!;
    expect(at + (type === "vec4u" ? 4 : 1)).toBeLessThanOrEqual(64);
  }
});
