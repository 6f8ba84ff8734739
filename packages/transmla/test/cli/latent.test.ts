import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import { hasShared, shared } from "../shared.ts";
import { run, type Run } from "./run.ts";

let folder: string;
beforeEach(async () => (folder = await mkdtemp(join(tmpdir(), "transmla-"))));
afterEach(() => rm(folder, { recursive: true }));

const convertLatent = (...options: readonly string[]): Promise<Run> =>
  run("convert", bundledModel, join(folder, "out"), "--method", "latent", ...options);
const sizes = ["--rope-dim", "24", "--latent-rank", "72"];

test("a latent conversion on windows of token ids", async () => {
  const calibration = join(folder, "windows.json");
  const windows = [0, 1].map((row) => Array.from({ length: 64 }, (_, i) => 8 * i + row));
  await writeFile(calibration, JSON.stringify({ windows }));
  const { code, stdout } = await convertLatent(...sizes, "--calibration", calibration);
  expect(code).toBe(0);
  expect(stdout).toContain(`calibrated on 128 tokens of ${calibration} in 2 windows`);
  expect(stdout).toContain("latent attention, 8 heads, latent of 72, shared rope key of 24");
  expect(stdout).toMatch(/cached numbers per token and layer +256 +96/);
});

test("a cache of a size, on a text: sizes are chosen on windows that are held out", async () => {
  const text = join(bundledModel, "sample.txt");
  const limits = ["--window", "24", "--max-windows", "5"];
  const { code, stdout } = await convertLatent("--cache", "64", "--calibration", text, ...limits);
  expect(code).toBe(0);
  expect(stdout.match(/\d+ \+ \d+: KL .* on held-out windows/g)).toHaveLength(4);
  expect(stdout).toMatch(/cached numbers per token and layer +256 +64/);
});

test("without a text, windows are sampled from the model", async () => {
  const { code, stdout } = await convertLatent(...sizes, "--window", "16", "--max-windows", "2");
  expect(code).toBe(0);
  expect(stdout).toContain("calibrated on 32 tokens of text sampled from the model in 2 windows");
});

test.each([[[]], [["--rope-dim", "24"]], [[...sizes, "--cache", "96"]]])(
  "sizes %j are refused, and nothing is left behind",
  async (options) => {
    const { code, stderr } = await convertLatent(...options);
    expect(code).toBe(2);
    expect(stderr).toBe(
      "error: convert: latent needs either --cache, or both --rope-dim and --latent-rank\n",
    );
    expect(await readdir(folder)).toEqual([]);
  },
);

test("a refined conversion says so", async () => {
  const limits = ["--window", "16", "--max-windows", "5"];
  const text = ["--calibration", join(bundledModel, "sample.txt"), ...limits];
  const { code } = await convertLatent("--cache", "48", "--refine", ...text);
  expect(code).toBe(0);
  const config = JSON.parse(await readFile(join(folder, "out", "config.json"), "utf8")) as object;
  expect(config).toMatchObject({ transmla_conversion: { refine: "steps" } });
});

test("too few windows to hold one out", async () => {
  const text = join(bundledModel, "sample.txt");
  const { code, stderr } = await convertLatent(
    "--cache",
    "96",
    "--calibration",
    text,
    "--max-windows",
    "4",
  );
  expect(code).toBe(2);
  expect(stderr).toContain(
    "convert: --cache needs 5 windows or more to hold one out, found 4; give a longer text or a smaller --window",
  );
});

test("the published recipe: sizes and fold are chosen, or given", async () => {
  const text = [
    "--calibration",
    join(bundledModel, "sample.txt"),
    "--window",
    "24",
    "--max-windows",
    "5",
  ];
  const published = ["--recipe", "transmla", ...text];
  const { code, stdout } = await convertLatent("--cache", "64", ...published);
  expect(code).toBe(0);
  expect(stdout.match(/\d+ \+ \d+, fold \d+: KL .* on held-out windows/g)).toHaveLength(9);
  const config = JSON.parse(await readFile(join(folder, "out", "config.json"), "utf8")) as object;
  expect(config).toMatchObject({ rope_theta: 10_000, transmla_conversion: { recipe: "transmla" } });
  const out = join(folder, "given");
  const given = await run(
    "convert",
    bundledModel,
    out,
    "--method",
    "latent",
    "--rope-dim",
    "16",
    "--latent-rank",
    "48",
    "--fold",
    "2",
    ...published,
  );
  expect(given.code).toBe(0);
});

test.each([
  [
    ["--refine", "--recipe", "transmla", ...sizes],
    "--refine: belongs to the default recipe, not to --recipe transmla",
  ],
  [
    ["--fold", "2", ...sizes],
    "--fold: belongs to --recipe transmla with --rope-dim and --latent-rank",
  ],
  [
    ["--recipe", "transmla", ...sizes, "--window", "8", "--max-windows", "1"],
    "convert: ropeDim 24 of --recipe transmla must be even and divide the head width 32",
  ],
  [
    [
      "--recipe",
      "transmla",
      "--rope-dim",
      "16",
      "--latent-rank",
      "48",
      "--fold",
      "3",
      "--window",
      "8",
      "--max-windows",
      "1",
    ],
    "convert: fold 3 must be a multiple of 2 (head width / ropeDim) that divides 16",
  ],
])("%j is refused", async (options, message) => {
  const { code, stderr } = await convertLatent(...options);
  expect(code).toBe(2);
  expect(stderr).toContain(message);
});

test.skipIf(!hasShared("fixtures/models"))(
  "norms of heads: what linear queries and keys change is printed",
  async () => {
    const calibration = join(folder, "windows.json");
    const windows = [0, 1].map((row) => Array.from({ length: 32 }, (_, i) => (7 * i + row) % 80));
    await writeFile(calibration, JSON.stringify({ windows }));
    const qwen3 = join(shared, "fixtures/models/qwen3");
    const method = ["--method", "latent", "--rope-dim", "16", "--latent-rank", "32"];
    const args = [...method, "--calibration", calibration];
    const { code, stdout } = await run("convert", qwen3, join(folder, "out"), ...args);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /linear ones in their place change the attention outputs by \S+ % of their energy, and by \S+ % in layer \d; --target own keeps the norms/,
    );
    const own = await run("convert", qwen3, join(folder, "own"), ...args, "--target", "own");
    expect(own.code).toBe(0);
    expect(own.stdout).not.toContain("linear");
  },
);
