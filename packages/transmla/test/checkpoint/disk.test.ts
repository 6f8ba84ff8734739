import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { ArgumentError } from "@transmla/core";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import {
  createOutputFolder,
  diskFolder,
  diskSink,
  writeTensorFile,
} from "../../src/checkpoint/disk.ts";
import { FileError } from "../../src/checkpoint/folder.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { openCheckpoint } from "../../src/checkpoint/shards.ts";
import type { TensorValues } from "../../src/checkpoint/tensors.ts";
import { createCheckpoint } from "../../src/checkpoint/write.ts";

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "checkpoint-"));
});
afterEach(async () => rm(root, { recursive: true, force: true }));

const at = (...names: string[]): string => join(root, ...names);

describe("diskFolder", () => {
  test("reads ranges, through links too, as the hub's cache has them", async () => {
    await writeFile(at("blob"), Uint8Array.of(10, 11, 12, 13));
    await symlink("blob", at("link"));
    const folder = diskFolder(root);
    expect(await folder.exists("link")).toBe(true);
    const file = await folder.open("link");
    expect([file.name, file.size]).toEqual([at("link"), 4]);
    expect(await file.read(1, 4)).toEqual(Uint8Array.of(11, 12, 13));
    expect(await file.read(0, 0)).toEqual(new Uint8Array(0));
    await expect(file.read(2, 5)).rejects.toThrow(
      new ArgumentError(`read: 2..5 is not inside 4 bytes (${at("link")})`),
    );
    await file.close();
    await expect(file.read(0, 1)).rejects.toThrow(FileError);
  });

  test("says what is not there", async () => {
    await writeFile(at("file"), "");
    await mkdir(at("sub"));
    const folder = diskFolder(root);
    expect(await folder.exists("a")).toBe(false);
    expect(await folder.exists("sub")).toBe(false);
    await expect(folder.open("a")).rejects.toThrow(
      new FileError(`open: no such file (${at("a")})`),
    );
    await expect(folder.open("../a")).rejects.toThrow(
      new ArgumentError('open: "../a" is not a plain file name'),
    );
    await expect(openCheckpoint(diskFolder(at("none")))).rejects.toThrow(
      new FileError(`open: no such folder (${at("none")})`),
    );
    await expect(openCheckpoint(diskFolder(at("file")))).rejects.toThrow(
      new FileError(`open: is a file, not a folder (${at("file")})`),
    );
  });

  test("notices that a file shrank while it was open", async () => {
    await writeFile(at("a"), new Uint8Array(100));
    const file = await diskFolder(root).open("a");
    await truncate(at("a"), 60);
    await expect(file.read(50, 100)).rejects.toThrow(
      new FileError(`read: the file ended at byte 60 while it was read (${at("a")})`),
    );
    await file.close();
  });
});

describe("createOutputFolder", () => {
  test("appears with commit", async () => {
    const output = await createOutputFolder(at("out"));
    await output.writeText("config.json", "{}");
    const writer = await createCheckpoint(
      output,
      ["a", "b"].map((name) => ({ name, dtype: "BF16", shape: [3] })),
      { maxShardBytes: 6 },
    );
    await writer.write("b", [4, 5, 6]);
    await writer.write("a", [1, 2, 3]);
    await writer.close();
    const [temporary, ...others] = await readdir(root);
    expect(temporary).toMatch(/^out\.incomplete-\d+-[0-9a-f]{8}$/);
    expect(others).toEqual([]);
    await output.commit();
    await output.discard(); // of no effect
    expect(await readdir(root)).toEqual(["out"]);
    expect((await readdir(at("out"))).toSorted()).toEqual([
      "config.json",
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
    ]);
    const source = await openCheckpoint(diskFolder(at("out")));
    expect(await source.numbers("a")).toEqual(Float64Array.of(1, 2, 3));
    expect(await source.numbers("b")).toEqual(Float64Array.of(4, 5, 6));
    await source.close();
  });

  test("takes the place of an empty folder, also behind a link", async () => {
    await mkdir(at("real"));
    await symlink("real", at("out"));
    const output = await createOutputFolder(at("out"));
    await output.writeText("a", "text");
    await output.commit();
    expect(await readFile(at("real", "a"), "utf8")).toBe("text");
    expect((await readdir(root)).toSorted()).toEqual(["out", "real"]);
  });

  test("vanishes with discard, open files and all", async () => {
    const output = await createOutputFolder(at("out"));
    const sink = await output.create("a");
    await sink.write(0, Uint8Array.of(1));
    await output.discard();
    await output.discard();
    expect(await readdir(root)).toEqual([]);
  });

  test("removes what a process that was killed has left, and nothing else", async () => {
    const { pid } = spawnSync(process.execPath, ["--version"]); // has ended
    const others = [`out.incomplete-${process.pid}-01234567`, "out.incomplete-notes", "output"];
    for (const name of [`out.incomplete-${pid}-89abcdef`, ...others]) await mkdir(at(name));
    const output = await createOutputFolder(at("out"));
    await output.commit();
    expect((await readdir(root)).toSorted()).toEqual(["out", ...others].toSorted());
  });

  test("replaces nothing", async () => {
    await writeFile(at("file"), "");
    await mkdir(at("full"));
    await writeFile(at("full", "a"), "");
    await expect(createOutputFolder(at("full"))).rejects.toThrow(
      new ArgumentError(
        `createOutputFolder: the folder exists and is not empty; name another (${at("full")})`,
      ),
    );
    await expect(createOutputFolder(at("file"))).rejects.toThrow(
      new ArgumentError(`createOutputFolder: is a file, not a folder (${at("file")})`),
    );
    await expect(createOutputFolder(at("none", "out"))).rejects.toThrow(
      new FileError(
        `createOutputFolder: the folder that it should go into does not exist (${at("none", "out")})`,
      ),
    );
    expect((await readdir(root)).toSorted()).toEqual(["file", "full"]);
  });

  test("does not replace what came into being meanwhile", async () => {
    const output = await createOutputFolder(at("out"));
    await output.writeText("a", "new");
    await mkdir(at("out"));
    await writeFile(at("out", "a"), "old");
    await expect(output.commit()).rejects.toThrow(FileError);
    await output.discard();
    expect(await readdir(root)).toEqual(["out"]);
    expect(await readFile(at("out", "a"), "utf8")).toBe("old");
  });

  test("fails by name when its own files are taken away", async () => {
    const output = await createOutputFolder(at("out"));
    const [temporary = ""] = await readdir(root);
    await rm(at(temporary), { recursive: true });
    await expect(output.create("a")).rejects.toThrow(
      new FileError(`create: no such file or folder (ENOENT) (${at(temporary, "a")})`),
    );
    await output.discard();
    expect(await readdir(root)).toEqual([]);
  });
});

describe("writeTensorFile", () => {
  const tensors = (value: number): Map<string, TensorValues> =>
    new Map([["logits", { dtype: "F16", shape: [1], values: [value] }]]);

  test("writes one file, in place of another", async () => {
    await writeFile(at("out.safetensors"), "old");
    await writeTensorFile(at("out.safetensors"), tensors(3));
    expect(await readdir(root)).toEqual(["out.safetensors"]);
    const source = await openSafetensors(await diskFolder(root).open("out.safetensors"));
    expect(await source.numbers("logits")).toEqual(Float64Array.of(3));
    await source.close();
  });

  test("leaves nothing behind when it fails", async () => {
    await expect(writeTensorFile(at("out"), tensors(1e6))).rejects.toThrow(
      new ArgumentError('write: tensor "logits", element 0: 1000000 does not fit in F16'),
    );
    await mkdir(at("sub", "sub"), { recursive: true });
    await expect(writeTensorFile(at("sub"), tensors(1))).rejects.toThrow(FileError);
    expect(await readdir(root)).toEqual(["sub"]);
  });
});

test.skipIf(!existsSync("/dev/full"))("a full disk is reported by name", async () => {
  const sink = await diskSink("/dev/full", "w");
  await expect(sink.write(0, new Uint8Array(10))).rejects.toThrow(
    new FileError("write: no space left on the disk (ENOSPC) (/dev/full)"),
  );
  await sink.close();
});
