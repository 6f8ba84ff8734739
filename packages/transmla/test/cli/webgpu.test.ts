import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { hasAdapter } from "../../../../test/adapter.ts";
import { bundledModel } from "../../src/bundled.ts";
import { run } from "./run.ts";

describe.skipIf(!hasAdapter)("--backend webgpu", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "transmla-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  test("generates the text of the cpu backend", async () => {
    const generate = ["generate", bundledModel, "--prompt", "JULIET:", "--max-tokens", "12"];
    const onCpu = await run(...generate, "--quiet");
    const onGpu = await run(...generate, "--quiet", "--backend", "webgpu");
    expect(onGpu).toEqual(onCpu);
    expect(onGpu.code).toBe(0);
  });

  test("converts and verifies", async () => {
    const out = join(folder, "merged");
    const onGpu = ["--backend", "webgpu"];
    const converted = await run("convert", bundledModel, out, "--method", "merged", ...onGpu);
    expect(converted.code).toBe(0);
    const small = ["--window", "32", "--max-windows", "1", "--json"];
    const verified = await run("verify", bundledModel, out, ...small, ...onGpu);
    expect(verified.code).toBe(0);
    expect(JSON.parse(verified.stdout)).toMatchObject({ passed: true, topAgreement: 1 });
  });
});
