import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import { run } from "../cli/run.ts";
import { startHub, type TestHub } from "./server.ts";

let root = "";
let hub: TestHub;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "hub-"));
  const names = await readdir(bundledModel);
  const contents = await Promise.all(names.map((name) => readFile(join(bundledModel, name))));
  hub = await startHub(Object.fromEntries(names.map((name, i) => [name, contents[i]!])));
  vi.stubEnv("HF_HOME", root);
  vi.stubEnv("HF_ENDPOINT", hub.url);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await hub.close();
  await rm(root, { recursive: true });
});

test("commands take models of the hub", async () => {
  const info = await run("info", "hf:org/name", "--json");
  expect([info.stderr, info.code]).toEqual(["", 0]);
  expect(JSON.parse(info.stdout)).toMatchObject({ parameters: 2_853_312 });
  expect(hub.requests("model.safetensors")).toEqual([]); // a configuration is enough

  const generate = ["generate", "hf:org/name@v1", "--prompt", "ROMEO:", "--max-tokens", "4"];
  const online = await run(...generate, "--temperature", "0", "--json");
  expect([online.stderr, online.code]).toEqual(["", 0]);
  const local = await run(
    "generate",
    bundledModel,
    ...generate.slice(2),
    "--temperature",
    "0",
    "--json",
  );
  const text = (stdout: string): unknown => (JSON.parse(stdout) as { text?: unknown }).text;
  expect(text(online.stdout)).toBe(text(local.stdout));
  expect(text(online.stdout)).toEqual(expect.any(String));

  vi.stubEnv("HF_HUB_OFFLINE", "1");
  const out = join(root, "out");
  const convert = await run("convert", "hf:org/name@v1", out, "--method", "factored", "--quiet");
  expect([convert.stderr, convert.code]).toEqual(["", 0]);
  expect(await readdir(out)).toContain("tokenizer.json");
});

test("a malformed name is wrong usage", async () => {
  const { code, stderr } = await run("info", "hf:name");
  expect([code, stderr]).toEqual([
    2,
    'error: downloadModel: a model on the hub has an organisation and a name; write hf:org/name@revision ("hf:name")\n',
  ]);
});
