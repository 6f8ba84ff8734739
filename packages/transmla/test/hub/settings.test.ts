import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";

import { ArgumentError } from "@transmla/core";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { readSettings, readToken } from "../../src/hub/settings.ts";

describe("readSettings", () => {
  test("finds the cache where huggingface_hub has it", () => {
    const cache = (environment: Record<string, string>): string => readSettings(environment).cache;
    expect(cache({})).toBe(join(homedir(), ".cache", "huggingface", "hub"));
    expect(cache({ XDG_CACHE_HOME: "/x" })).toBe(join("/x", "huggingface", "hub"));
    expect(cache({ HF_HOME: "~/hf", XDG_CACHE_HOME: "/x" })).toBe(join(homedir(), "hf", "hub"));
    expect(cache({ HF_HUB_CACHE: "/c", HF_HOME: "/h" })).toBe("/c");
  });

  test("reads switches as huggingface_hub does", () => {
    expect(readSettings({})).toMatchObject({ offline: false, symlinks: true });
    expect(readSettings({ HF_HUB_OFFLINE: "1" }).offline).toBe(true);
    expect(readSettings({ TRANSFORMERS_OFFLINE: "yes" }).offline).toBe(true);
    expect(readSettings({ HF_HUB_OFFLINE: "0" }).offline).toBe(false);
    expect(readSettings({ HF_HUB_DISABLE_SYMLINKS: "True" }).symlinks).toBe(false);
  });

  test("checks the endpoint and does not repeat its password", () => {
    const endpoint = (HF_ENDPOINT: string): string => readSettings({ HF_ENDPOINT }).endpoint;
    expect(endpoint("")).toBe("https://huggingface.co");
    expect(endpoint("http://mirror:8080/hub/")).toBe("http://mirror:8080/hub");
    const problem = "is not an http or https address without user, query and fragment";
    expect(() => endpoint("ftp://x")).toThrow(
      new ArgumentError(`downloadModel: HF_ENDPOINT "ftp://x" ${problem}`),
    );
    expect(() => endpoint("https://user:secret@x")).toThrow(
      new ArgumentError(`downloadModel: HF_ENDPOINT ${problem}`),
    );
  });
});

describe("readToken", () => {
  let folder = "";
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "hub-"));
  });
  afterEach(() => rm(folder, { recursive: true }));

  test("prefers the environment to the file", async () => {
    await writeFile(join(folder, "token"), "stored\n");
    const home = { HF_HOME: folder };
    expect(await readToken({ ...home, HF_TOKEN: "a", HUGGING_FACE_HUB_TOKEN: "b" })).toBe("a");
    expect(await readToken({ ...home, HUGGING_FACE_HUB_TOKEN: " b\n" })).toBe("b");
    expect(await readToken(home)).toBe("stored");
    expect(await readToken({ HF_TOKEN_PATH: join(folder, "token") })).toBe("stored");
    expect(await readToken({ ...home, HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" })).toBeUndefined();
    expect(await readToken({ HF_HOME: join(folder, "absent") })).toBeUndefined();
  });

  test("refuses what is no token without repeating it", async () => {
    await expect(readToken({ HF_TOKEN: "two\nlines" })).rejects.toThrow(
      new ArgumentError("downloadModel: what is stored there is not an access token (HF_TOKEN)"),
    );
  });
});
