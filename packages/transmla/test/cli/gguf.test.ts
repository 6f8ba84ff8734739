import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import { run, type Run } from "./run.ts";

let folder: string;
beforeEach(async () => (folder = await mkdtemp(join(tmpdir(), "transmla-"))));
afterEach(() => rm(folder, { recursive: true }));

const toGguf = (...options: readonly string[]): Promise<Run> =>
  run("convert", bundledModel, join(folder, "out.gguf"), "--format", "gguf", ...options);
const latent = ["--method", "latent", "--rope-dim", "16", "--latent-rank", "64"];

test("a latent conversion becomes a GGUF file, which is read back as the model that it is", async () => {
  const ids = Array.from({ length: 32 }, (_, i) => (7 * i) % 500);
  const windows = join(folder, "windows.json");
  await writeFile(windows, JSON.stringify([ids]));
  const calibration = ["--calibration", windows, "--window", "32"];
  const gguf = await toGguf(...latent, ...calibration);
  expect(gguf.stderr).toBe("");
  const path = join(folder, "folder");
  expect((await run("convert", bundledModel, path, ...latent, ...calibration)).code).toBe(0);
  const verified = await run("verify", path, join(folder, "out.gguf"), "--text", windows);
  expect(verified.stdout).toContain("equal within 0.0001");
  expect(verified.code).toBe(0);
});

test.each<[problem: string, options: readonly string[], code: number]>([
  [
    'convert: llama.cpp does not honour rope_type "longrope" in DeepSeek-V3',
    ["--method", "merged"],
    1,
  ],
  [
    "convert: llama.cpp holds latent attention in the form of DeepSeek only, not grouped attention of llama; use --method latent",
    [],
    1,
  ],
])("refuses, and leaves nothing behind: %s", async (problem, options, code) => {
  const { stderr, code: exit } = await toGguf(...options);
  expect(stderr).toContain(problem);
  expect(exit).toBe(code);
  expect(await readdir(folder)).toEqual([]);
});

test("does not replace a file", async () => {
  await writeFile(join(folder, "out.gguf"), "mine");
  const { stderr, code } = await toGguf(...latent);
  expect(stderr).toContain("createOutputFile: the file exists; name another");
  expect(code).toBe(2);
});

test.each([
  [["--method", "merged", "--dtype", "q8_0"], "--dtype: q8_0 is for --format gguf"],
  [[], "--method: is missing: factored, merged or latent"],
  [["--format", "gguf", "--target", "own"], "--target: own does not read GGUF files"],
])("refuses %j", async (options, problem) => {
  const { stderr, code } = await run("convert", bundledModel, join(folder, "out"), ...options);
  expect(stderr).toContain(problem);
  expect(code).toBe(2);
});
