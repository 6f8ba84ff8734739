import { lstat, readdir, readFile, readlink, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { FormatError, UnsupportedError } from "@transmla/core";
import { describe, expect, test } from "vitest";

import { FileError } from "../../src/checkpoint/folder.ts";
import { hubFolder } from "../../src/hub/snapshot.ts";
import type { Progress } from "../../src/load.ts";
import { Fixture, files, refusal, wanted, weights } from "./fixture.ts";
import { commit, gitHash, noise, sha256 } from "./server.ts";

const fixture = new Fixture();

const index = (...shards: string[]): Buffer =>
  Buffer.from(
    JSON.stringify({ weight_map: Object.fromEntries(shards.map((s, i) => [`w${i}`, s])) }),
  );
describe("the cache", () => {
  test("has the layout of huggingface_hub", async () => {
    const path = await fixture.download();
    expect(path).toBe(fixture.at("snapshots", commit));
    expect((await readdir(path)).toSorted()).toEqual(wanted);
    expect(await readFile(fixture.at("refs", "main"), "utf8")).toBe(commit);
    expect(await readlink(join(path, "config.json"))).toBe(
      join("..", "..", "blobs", gitHash(files["config.json"])),
    );
    expect(await readlink(join(path, "model.safetensors"))).toBe(
      join("..", "..", "blobs", sha256(weights)),
    );
    for (const name of wanted) {
      expect(await readFile(join(path, name))).toEqual(files[name]);
    }
    expect((await readdir(fixture.at("blobs"))).toSorted()).toEqual(
      [gitHash(files["config.json"]), gitHash(files["tokenizer.json"]), sha256(weights)].toSorted(),
    );
    expect(await readdir(fixture.at(".no_exist", commit))).toContain("generation_config.json");
    expect(await readdir(join(fixture.root, "hub", ".locks", "models--org--name"))).toEqual([]);
  });

  test("is not filled twice", async () => {
    await fixture.download();
    const { sent } = fixture.hub;
    const progress: Progress[] = [];
    await fixture.download({ onProgress: (p) => progress.push(p) });
    expect(fixture.hub.sent).toBe(sent);
    const total = wanted.reduce((sum, name) => sum + files[name].length, 0);
    expect(progress.at(-1)).toEqual({ done: total, total, unit: "bytes" });
    const { length } = fixture.hub.seen;
    await fixture.download({}, `org/name@${commit}`); // nothing is asked about a commit that is there
    expect(fixture.hub.seen).toHaveLength(length);
  });

  test("shares content between commits, and follows a branch", async () => {
    await fixture.download();
    const { sent } = fixture.hub;
    fixture.hub.commit = "f".repeat(40);
    expect(await fixture.download()).toBe(fixture.at("snapshots", fixture.hub.commit));
    expect(fixture.hub.sent).toBe(sent);
    expect(await readFile(fixture.at("refs", "main"), "utf8")).toBe(fixture.hub.commit);
    await fixture.download({}, "hf:org/name@refs/pr/1");
    expect(await readFile(fixture.at("refs", "refs", "pr", "1"), "utf8")).toBe(fixture.hub.commit);
  });

  test("keeps a branch on a commit with weights when only a configuration is asked for", async () => {
    await fixture.download();
    fixture.hub.commit = "f".repeat(40);
    const path = await fixture.download({ weights: false });
    expect(path).toBe(fixture.at("snapshots", fixture.hub.commit));
    expect(await readFile(fixture.at("refs", "main"), "utf8")).toBe(commit);
  });

  test("holds files instead of links where links are not wanted", async () => {
    fixture.environment["HF_HUB_DISABLE_SYMLINKS"] = "1";
    const path = await fixture.download();
    expect((await lstat(join(path, "model.safetensors"))).isFile()).toBe(true);
    expect(await readFile(join(path, "model.safetensors"))).toEqual(weights);
    const { sent } = fixture.hub;
    await fixture.download();
    expect(fixture.hub.sent).toBe(sent);
  });

  test("is mended where a file has the wrong size", async () => {
    const path = await fixture.download();
    await truncate(fixture.at("blobs", sha256(weights)), 10);
    await fixture.download();
    expect(await readFile(join(path, "model.safetensors"))).toEqual(weights);
  });

  test("says what it lacks when offline", async () => {
    fixture.environment["HF_HUB_OFFLINE"] = "1";
    const lacks = (what: string) => refusal(`${what}, and HF_HUB_OFFLINE forbids downloads`);
    await expect(fixture.download()).rejects.toThrow(lacks("the cache does not hold it"));
    await fixture.download({
      weights: false,
      environment: { ...fixture.environment, HF_HUB_OFFLINE: "" },
    });
    expect(fixture.hub.requests("model.safetensors")).toEqual([]);
    const { length } = fixture.hub.seen;
    await expect(fixture.download()).rejects.toThrow(lacks("the cache lacks model.safetensors"));
    expect(await fixture.download({ weights: false })).toBe(fixture.at("snapshots", commit));
    expect(fixture.hub.seen).toHaveLength(length);
  });
});

describe("what is chosen", () => {
  test("the shards that the index names", async () => {
    const [a, b] = [noise(5000, 4), noise(6000, 5)];
    await fixture.serve({
      "config.json": files["config.json"],
      "model.safetensors.index.json": index("a.safetensors", "b.safetensors", "a.safetensors"),
      "a.safetensors": a,
      "b.safetensors": b,
      "unused.safetensors": noise(10),
    });
    const totals = new Set<number>();
    const path = await fixture.download({ onProgress: ({ total }) => totals.add(total) });
    expect(await readFile(join(path, "b.safetensors"))).toEqual(b);
    expect(await readdir(path)).not.toContain("unused.safetensors");
    expect(totals.size).toBe(1);
  });

  test("no shard that is not there or is not a file of the repository", async () => {
    const shards = async (name: string): Promise<void> =>
      fixture.serve({
        "config.json": files["config.json"],
        "model.safetensors.index.json": index(name),
      });
    await shards("c.safetensors");
    await expect(fixture.download()).rejects.toThrow(
      refusal(
        "the model has no such file, but its model.safetensors.index.json names it",
        "c.safetensors",
      ),
    );
    await shards("../../c.safetensors");
    await rm(fixture.at(), { recursive: true });
    await expect(fixture.download()).rejects.toThrow(FormatError);
  });

  test("one GGUF file, if it is named", async () => {
    await fixture.serve({ "a.gguf": noise(4000), "b.gguf": noise(10) });
    await expect(fixture.download()).rejects.toThrow(
      new UnsupportedError(
        "downloadModel: no safetensors; name one of its GGUF files: hf:org/name/a.gguf (org/name@main)",
      ),
    );
    expect(await readdir(await fixture.download({}, "hf:org/name/a.gguf"))).toEqual(["a.gguf"]);
    await expect(
      hubFolder("hf:org/name/a.gguf", { environment: fixture.environment }),
    ).rejects.toThrow(FormatError);
    await expect(fixture.download({}, "hf:org/name/c.gguf")).rejects.toThrow(
      refusal("the model has no such file", "c.gguf"),
    );
  });

  test("never pickles", async () => {
    await fixture.serve({ "config.json": files["config.json"], "pytorch_model.bin": noise(10) });
    await expect(fixture.download()).rejects.toThrow(
      new UnsupportedError(
        "downloadModel: the model has only PyTorch pickles, which run code when they are read: model.safetensors or model.safetensors.index.json is needed (org/name@main)",
      ),
    );
    expect(fixture.hub.requests("pytorch_model.bin")).toEqual([]);
  });

  test("nothing from a listing with a path outside the folder", async () => {
    fixture.hub.lies = { "../../evil": { size: 1, blobId: "a".repeat(40) } };
    await expect(fixture.download()).rejects.toThrow(
      new FormatError(
        `downloadModel: the hub's listing names the file "../../evil", which no repository can hold (org/name@main)`,
      ),
    );
    expect(fixture.hub.sent).toBe(0);
  });
});

test("a cache that cannot be written is a FileError", async () => {
  const file = join(fixture.root, "file");
  await writeFile(file, "");
  fixture.environment["HF_HUB_CACHE"] = file;
  await expect(fixture.download()).rejects.toThrow(FileError);
});
