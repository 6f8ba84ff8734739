// Processes that share a cache, and one that is killed. They run the module as one bundled file.
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { build } from "vite";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import { noise, sendFile, startHub, type TestHub } from "./server.ts";

const weights = noise(2_000_000);
const files = { "config.json": Buffer.from("{}"), "model.safetensors": weights };

let program = "";
let scripts = "";
let root = "";
let hub: TestHub;
const children: ChildProcess[] = [];

beforeAll(async () => {
  scripts = await mkdtemp(join(tmpdir(), "hub-"));
  await build({
    configFile: false,
    logLevel: "error",
    build: {
      ssr: join(import.meta.dirname, "../../src/hub/snapshot.ts"),
      outDir: scripts,
      rolldownOptions: { output: { entryFileNames: "hub.mjs" } },
    },
    ssr: { noExternal: true, resolve: { conditions: ["source"] } },
  });
  program = join(scripts, "program.mjs");
  await writeFile(
    program,
    `import { downloadSnapshot } from "./hub.mjs";
     const path = await downloadSnapshot("hf:org/name", {
       rangeBytes: 100_000,
       onProgress: (progress) => process.send(progress),
     });
     process.send({ path }, () => process.disconnect());`,
  );
});
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "hub-"));
  hub = await startHub(files);
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
  await hub.close();
  await rm(root, { recursive: true });
});
afterAll(() => rm(scripts, { recursive: true }));

function start(onMessage: (message: { done?: number }) => void = () => {}): ChildProcess {
  const env = { PATH: process.env["PATH"], HF_HOME: root, HF_ENDPOINT: hub.url };
  const child = fork(program, { env, execArgv: [] });
  child.on("message", onMessage);
  children.push(child);
  return child;
}

async function expectComplete(): Promise<void> {
  const folder = join(root, "hub", "models--org--name");
  const snapshot = join(folder, "snapshots", hub.commit);
  expect((await readFile(join(snapshot, "model.safetensors"))).equals(weights)).toBe(true);
  expect(await readdir(join(folder, "blobs"))).toHaveLength(2);
}

test("two processes download every byte once", async () => {
  const results = await Promise.all([once(start(), "exit"), once(start(), "exit")]);
  expect(results.map(([code]) => code as unknown)).toEqual([0, 0]);
  const ranges = hub.requests("model.safetensors").map(({ range }) => range);
  expect(ranges).toHaveLength(20);
  expect(new Set(ranges).size).toBe(20);
  await expectComplete();
});

test("a process goes on where one was killed, while its lock is still there", async () => {
  hub.behave = ({ path, range }, response, count) => {
    if (!path.endsWith("model.safetensors")) return false;
    // The killed process sees ten ranges; the rest of its requests hang.
    if (count < 10) sendFile(response, weights, range);
    return true;
  };
  const child = start(({ done = 0 }) => {
    if (done >= 1_000_000) child.kill("SIGKILL");
  });
  await once(child, "exit");
  expect(await readdir(join(root, "hub", ".locks", "models--org--name"))).toHaveLength(1);
  hub.behave = undefined;
  hub.seen.length = 0;
  expect(await once(start(), "exit")).toEqual([0, null]);
  expect(hub.requests("model.safetensors").length).toBeLessThanOrEqual(10);
  await expectComplete();
});
