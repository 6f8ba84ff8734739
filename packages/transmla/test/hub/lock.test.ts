import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { acquireLock } from "../../src/hub/lock.ts";

let folder = "";
let path = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "hub-"));
  path = join(folder, "lock");
});
afterEach(() => rm(folder, { recursive: true }));

/** Leaves the lock of another process behind. */
async function leaveLock(change: object): Promise<void> {
  const lock = await acquireLock(path, undefined);
  const content = JSON.parse(await readFile(path, "utf8")) as object;
  await lock.release();
  await writeFile(path, JSON.stringify({ ...content, id: "other", ...change }));
}

test("one holds it at a time, in turn", async () => {
  let holders = 0;
  let most = 0;
  const work = async (): Promise<void> => {
    const lock = await acquireLock(path, undefined);
    expect(lock.takenOver).toBe(false);
    most = Math.max(most, ++holders);
    await new Promise((resolve) => {
      setTimeout(resolve, 5);
    });
    holders--;
    await lock.release();
  };
  await Promise.all([work(), work(), work()]);
  expect(most).toBe(1);
  expect(existsSync(path)).toBe(false);
});

test("the wait ends with the reason of the signal", async () => {
  const lock = await acquireLock(path, undefined);
  const abort = new AbortController();
  const waiting = acquireLock(path, abort.signal);
  abort.abort(new Error("enough"));
  await expect(waiting).rejects.toThrow("enough");
  await lock.release();
});

test("the lock of a dead process of this machine is free at once", async () => {
  const { pid } = spawnSync(process.execPath, ["--version"]);
  await leaveLock({ pid });
  const lock = await acquireLock(path, undefined, 1e6);
  expect(lock.takenOver).toBe(false);
  await lock.release();
});

test.each([{ machine: "another" }, { pid: process.pid }, { pid: 0 }])(
  "a silent lock of %j is taken over in time",
  async (holder) => {
    await leaveLock(holder);
    const lock = await acquireLock(path, undefined, 250);
    expect(lock.takenOver).toBe(true);
    await lock.release();
  },
);

test("a holder that works keeps its lock", async () => {
  const lock = await acquireLock(path, undefined, 1000);
  const abort = new AbortController();
  const other = acquireLock(path, abort.signal, 1000);
  setTimeout(() => abort.abort(new Error("still held")), 2000);
  await expect(other).rejects.toThrow("still held");
  await lock.release();
});

test("a holder does not release what another has taken over", async () => {
  const lock = await acquireLock(path, undefined);
  await writeFile(path, "of another");
  await lock.release();
  expect(await readFile(path, "utf8")).toBe("of another");
});
