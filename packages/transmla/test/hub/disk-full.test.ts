import type * as Promises from "node:fs/promises";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { expect, test, vi } from "vitest";

import { FileError } from "../../src/checkpoint/folder.ts";
import { downloadModel } from "../../src/hub/download.ts";
import { noise, startHub } from "./server.ts";

/** Bytes that the disk still takes. */
const disk = vi.hoisted(() => ({ free: Infinity }));

vi.mock("node:fs/promises", async (importOriginal) => {
  const original = await importOriginal<typeof Promises>();
  const open = async (...args: Parameters<typeof original.open>) => {
    const handle = await original.open(...args);
    const write = handle.write.bind(handle) as (...args: unknown[]) => Promise<unknown>;
    const limited = async (...args: [Uint8Array, number, number, number]): Promise<unknown> => {
      disk.free -= args[2];
      if (disk.free >= 0) return write(...args);
      throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
    };
    return Object.assign(handle, { write: limited });
  };
  return { ...original, open };
});

test("a full disk is a FileError, and the download goes on when there is space", async () => {
  const root = await mkdtemp(join(tmpdir(), "hub-"));
  const weights = noise(10_000);
  const hub = await startHub({ "config.json": noise(10), "model.safetensors": weights });
  const environment = { HF_HOME: root, HF_ENDPOINT: hub.url };
  try {
    disk.free = 5000;
    const error: unknown = await downloadModel("org/name", { environment, rangeBytes: 2000 }).catch(
      (error: unknown) => error,
    );
    expect(error).toBeInstanceOf(FileError);
    expect(String(error)).toMatch(
      /^FileError: write: no space left on the disk \(ENOSPC\) \(.*\.incomplete\)$/,
    );
    disk.free = Infinity;
    hub.seen.length = 0;
    await downloadModel("org/name", { environment, rangeBytes: 2000 });
    expect(hub.requests("model.safetensors").length).toBeLessThan(5);
    expect(await readdir(join(root, "hub", "models--org--name", "blobs"))).toHaveLength(2);
  } finally {
    await hub.close();
    await rm(root, { recursive: true });
  }
});
