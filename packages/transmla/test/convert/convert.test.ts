import { cpuBackend } from "@transmla/backend-cpu";
import { expect, test } from "vitest";

import { bundledModel } from "../../src/bundled.ts";
import { diskFolder } from "../../src/checkpoint/disk.ts";
import {
  blobFolder,
  FileError,
  type ByteSource,
  type Folder,
} from "../../src/checkpoint/folder.ts";
import { memoryOutput, outputFolder, type OutputFolder } from "../../src/checkpoint/output.ts";
import { convert, convertCheckpoint, type ConversionReport } from "../../src/convert/convert.ts";
import type { OutputDType } from "../../src/convert/merged.ts";
import { loadModel } from "../../src/load.ts";

const backend = await cpuBackend();

test("a checkpoint that is converted and loaded is the model that is converted in memory", async () => {
  const before = backend.memory();
  {
    using source = await loadModel(bundledModel, { backend });
    using inMemory = await convert(source, { method: "merged" });
    const output = memoryOutput();
    await convertCheckpoint(diskFolder(bundledModel), output, { method: "merged" });
    using loaded = await loadModel(blobFolder(output.files), { backend });
    expect(loaded.config).toEqual(inMemory.config);
    expect([...loaded.tensors.keys()].toSorted()).toEqual([...inMemory.tensors.keys()].toSorted());
    for (const [name, tensor] of loaded.tensors) {
      expect(await tensor.read()).toEqual(await inMemory.tensors.get(name)!.read());
    }
  }
  expect(backend.memory()).toEqual(before);
});

/** An output that fails at the nth write. */
function failingOutput(failAt: number): {
  readonly output: OutputFolder;
  readonly state: { writes: number; discarded: boolean; committed: boolean };
} {
  const state = { writes: 0, discarded: false, committed: false };
  const output = outputFolder({
    create: async () => ({
      write: async () => {
        state.writes++;
        if (state.writes === failAt) throw new FileError("write: no space left on device (ENOSPC)");
      },
      close: async () => undefined,
    }),
    commit: async () => void (state.committed = true),
    discard: async () => void (state.discarded = true),
  });
  return { output, state };
}

test.each([1, 2, 40, 70])("a full disk at write %i leaves nothing behind", async (failAt) => {
  const { output, state } = failingOutput(failAt);
  const run = convertCheckpoint(diskFolder(bundledModel), output, { method: "factored" });
  await expect(run).rejects.toThrow("write: no space left on device (ENOSPC)");
  expect(state).toMatchObject({ discarded: true, committed: false });
});

test("an abort leaves nothing behind", async () => {
  const abort = new AbortController();
  const { output, state } = failingOutput(Number.POSITIVE_INFINITY);
  const run = convertCheckpoint(diskFolder(bundledModel), output, {
    method: "merged",
    signal: abort.signal,
    onProgress: ({ done }) => done === 10 && abort.abort(new Error("enough")),
  });
  await expect(run).rejects.toThrow("enough");
  expect(state).toMatchObject({ discarded: true, committed: false });
});

test("a failed conversion in memory frees what it made", async () => {
  using source = await loadModel(bundledModel, { backend });
  const before = backend.memory();
  const abort = new AbortController();
  const run = convert(source, {
    method: "factored",
    signal: abort.signal,
    onProgress: ({ done }) => done === 5 && abort.abort(new Error("enough")),
  });
  await expect(run).rejects.toThrow("enough");
  expect(backend.memory()).toEqual(before);
});

test("a converted model is not converted again", async () => {
  using source = await loadModel(bundledModel, { backend });
  using merged = await convert(source, { method: "merged" });
  await expect(convert(merged, { method: "factored" })).rejects.toThrow(
    "convert: the model has latent attention already; only grouped attention can be converted",
  );
});

/** The bundled model with another epsilon in its norms. */
function withEps(eps: number): Folder {
  const folder = diskFolder(bundledModel);
  const open = async (name: string): Promise<ByteSource> => {
    const source = await folder.open(name);
    if (name !== "config.json") return source;
    const text = new TextDecoder().decode(await source.read(0, source.size));
    await source.close();
    const config = JSON.stringify({ ...JSON.parse(text), rms_norm_eps: eps });
    return blobFolder(new Map([[name, new Blob([config])]])).open(name);
  };
  return { path: folder.path, exists: (name) => folder.exists(name), open };
}

test("merged keeps every weight of a bf16 source in bf16, and one epsilon for all norms in f32", async () => {
  const run = (dtype: OutputDType): Promise<ConversionReport> => {
    return convertCheckpoint(withEps(1e-5), memoryOutput(), { method: "merged", dtype });
  };
  const half = await run("bf16");
  expect(half.rounding).toEqual({ exact: 63, tensors: 63, worst: 0, worstName: undefined });
  expect(half.config["rms_norm_eps"]).toBe(1e-5);
  expect((await run("f32")).config["rms_norm_eps"]).toBe(1e-6);
});
