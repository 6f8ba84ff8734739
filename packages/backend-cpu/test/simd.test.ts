import { describe, expect, test } from "vitest";
import wabt from "wabt";

import { emit, kernelNames } from "../src/simd/kernels.ts";
import { webAssembly } from "../src/webassembly.ts";

const tools = await wabt();
const features = { simd: true, relaxed_simd: true };

/** Kernels without multiplications followed by additions. */
const exact = /^(\w+ lines|pack|maximum|scale|divide|weigh|widen|roundRow)/;

describe.each([
  ["relaxed", true, false],
  ["deterministic", false, false],
  ["revectorised", true, true],
  ["revectorised and deterministic", false, true],
])("modules: %s", (_, relaxed, revectorized) => {
  test.each(kernelNames)("%s", (kernel) => {
    const bytes = emit(kernel, { relaxed, revectorized });
    // What Chromium compiled synchronously on the main thread before version 115; it joins no vectors.
    expect(bytes.length).toBeLessThanOrEqual(revectorized ? 8192 : 4096);
    const module = tools.readWasm(bytes, { ...features, relaxed_simd: relaxed });
    module.validate();
    const text = module.toText({});
    module.destroy();
    expect(text).toContain('(export "run"');
    expect(text.includes("relaxed")).toBe(relaxed && !exact.test(kernel));
  });
});

test("modules over a shared memory", () => {
  const memory = { shared: true, maximum: 65_536 };
  for (const kernel of kernelNames) {
    const bytes = emit(kernel, { relaxed: false, memory });
    expect(webAssembly.validate(bytes)).toBe(true);
    const module = tools.readWasm(bytes, { ...features, threads: true });
    expect(module.toText({})).toContain("(memory (;0;) 1 65536 shared)");
    module.destroy();
  }
});
