import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import { run } from "./run.ts";

let folder: string;
beforeEach(async () => (folder = await mkdtemp(join(tmpdir(), "transmla-"))));
afterEach(() => rm(folder, { recursive: true }));

test("models beside a reference, and the pictures of it", async () => {
  const text = join(folder, "windows.json");
  const windows = [0, 1].map((row) => Array.from({ length: 48 }, (_, i) => 8 * i + row));
  await writeFile(text, JSON.stringify({ windows }));
  const caches = [32, 128];
  for (const cache of caches) {
    const sizes = ["--rope-dim", "24", "--latent-rank", String(cache - 24)];
    const out = join(folder, `latent-${cache}`);
    const picture = ["--svg", join(folder, "layers.svg")];
    const options = ["--method", "latent", ...sizes, "--calibration", text, ...picture];
    expect((await run("convert", bundledModel, out, ...options)).code).toBe(0);
  }
  const models = caches.map((cache) => join(folder, `latent-${cache}`));
  const svg = join(folder, "quality.svg");
  const { code, stdout } = await run(
    "compare",
    bundledModel,
    ...models,
    "--text",
    text,
    "--svg",
    svg,
    "--json",
  );
  expect(code).toBe(0);
  const rows = (JSON.parse(stdout) as { models: Record<string, number>[] }).models;
  expect(rows.map((row) => row["numbersPerTokenAndLayer"])).toEqual([256, ...caches]);
  expect(rows.map((row) => row["bytesPerToken"])).toEqual([256, ...caches].map((n) => 24 * n));
  const [original, small, large] = rows.map((row) => row["meanKl"]!);
  expect(original).toBe(0);
  expect(small).toBeGreaterThan(large!);
  expect(large).toBeGreaterThan(0);
  expect(await readFile(svg, "utf8")).toContain("latent-32");
  expect(await readFile(join(folder, "layers.svg"), "utf8")).toContain("Eigenvalues");
  expect((await readdir(folder)).some((name) => name.endsWith(".partial"))).toBe(false);
});

test("a picture of layers is of the latent method only", async () => {
  const out = join(folder, "out");
  const { code, stderr } = await run(
    "convert",
    bundledModel,
    out,
    "--method",
    "merged",
    "--svg",
    join(folder, "a.svg"),
  );
  expect(code).toBe(2);
  expect(stderr).toContain("--svg: draws the layers of --method latent, not of merged");
  expect(await readdir(folder)).toEqual([]);
});

test("windows of token ids are taken as they are, and cut where a length is given", async () => {
  const text = join(folder, "windows.json");
  const windows = [20, 30].map((length) => Array.from({ length }, (_, i) => i));
  await writeFile(text, JSON.stringify({ windows }));
  const evaluated = async (...options: readonly string[]): Promise<object> => {
    const { stdout } = await run("evaluate", bundledModel, "--text", text, "--json", ...options);
    return JSON.parse(stdout) as object;
  };
  expect(await evaluated()).toMatchObject({ windows: 2, tokens: 19 + 29 });
  expect(await evaluated("--window", "10")).toMatchObject({ windows: 5, tokens: 5 * 9 });
});
