// A conversion that is killed, and goes on. The command line runs as one bundled file in processes of its own.
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { access, cp, mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";

import { build } from "vite";
import { afterAll, beforeAll, expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";

let folder = "";
const children: ChildProcess[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "transmla-"));
  await build({
    configFile: false,
    logLevel: "error",
    build: {
      ssr: join(import.meta.dirname, "../../src/cli.ts"),
      outDir: join(folder, "program/cli"),
      rolldownOptions: { output: { entryFileNames: "cli.mjs" } },
    },
    ssr: { noExternal: true, external: ["webgpu"], resolve: { conditions: ["source"] } },
  });
  // The version is read two folders above the program.
  const manifest = { version: "0.0.0", type: "module" };
  await writeFile(join(folder, "package.json"), JSON.stringify(manifest));
  const row = (start: number): number[] => Array.from({ length: 24 }, (_, i) => 8 * i + start);
  await writeFile(join(folder, "ids.json"), JSON.stringify({ windows: [row(0), row(5)] }));
});
afterAll(async () => {
  for (const child of children) child.kill("SIGKILL");
  await rm(folder, { recursive: true });
});

function convert(
  to: string,
  target: string,
  options: readonly string[] = [],
  from = bundledModel,
): ChildProcess {
  const sizes = ["--rope-dim", "8", "--latent-rank", "24", "--target", target, ...options];
  const text = ["--calibration", join(folder, "ids.json"), "--threads", "1"];
  const args = ["convert", from, join(folder, to), "--method", "latent", ...sizes, ...text];
  const child = fork(join(folder, "program/cli/cli.mjs"), args, { execArgv: [], stdio: "pipe" });
  children.push(child);
  return child;
}

/** Waits for a run that succeeds, and returns what it has printed. */
async function finished(child: ChildProcess): Promise<string> {
  let printed = "";
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  }
  const [code] = await once(child, "close");
  expect(printed + String(code)).toMatch(/0$/);
  return printed;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

test.each([
  ["own", []],
  ["own", ["--refine"]],
  ["transformers", []],
  ["transformers", ["--refine"]],
])(
  "a run for %s %j that is killed goes on at the first missing layer and gives the same bytes",
  async (target, options) => {
    const name = [target, ...options].join("");
    const [whole, resumed] = [`${name}-whole`, `${name}-resumed`];
    await finished(convert(whole, target, options));

    const work = join(folder, `${resumed}.partial`);
    const killed = convert(resumed, target, options);
    const ended = once(killed, "exit");
    while (!(await exists(join(work, "layer-00001.safetensors")))) await setTimeout(5);
    killed.kill("SIGKILL");
    expect(await ended).toEqual([null, "SIGKILL"]);
    expect(await exists(join(folder, resumed))).toBe(false);
    const kept = (await readdir(work)).filter((name) => name.endsWith(".safetensors"));
    expect(kept.length).toBeGreaterThanOrEqual(2);

    expect(await finished(convert(resumed, target, options))).toContain(
      `${kept.length} of 6 layers`,
    );
    for (const name of ["model.safetensors", "config.json"]) {
      const bytes = await readFile(join(folder, resumed, name));
      expect(bytes.equals(await readFile(join(folder, whole, name)))).toBe(true);
    }
    expect((await readdir(folder)).filter((name) => name.startsWith(`${resumed}.`))).toEqual([]);
  },
);

test("layers of a model whose weights have changed since are not used", async () => {
  const model = join(folder, "model");
  await cp(bundledModel, model, { recursive: true });
  const killed = convert("changed", "transformers", [], model);
  const ended = once(killed, "exit");
  const work = join(folder, "changed.partial");
  while (!(await exists(join(work, "layer-00000.safetensors")))) await setTimeout(5);
  killed.kill("SIGKILL");
  await ended;
  await utimes(join(model, "model.safetensors"), new Date(), new Date(0));
  expect(await finished(convert("changed", "transformers", [], model))).not.toContain(
    "were converted before",
  );
});
