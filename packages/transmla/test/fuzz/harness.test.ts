// The checks of the fuzz can fail.
import { FormatError, TransmlaError } from "@transmla/core";
import { describe, expect, test } from "vitest";

import type { Folder } from "../../src/checkpoint/folder.ts";
import { countAllocations } from "./allocations.ts";
import { encode } from "./bytes.ts";
import { checkReading } from "./harness.ts";

const files = { "config.json": encode("{}") };

describe("what a reader may not do", () => {
  const disproportionate = /to be less than or equal to/;

  test.each<[name: string, problem: RegExp, read: (folder: Folder) => Promise<void>]>([
    [
      "throw another error",
      /^of another kind/,
      async () => Promise.reject(new RangeError("of another kind")),
    ],
    [
      "refuse without a name",
      /^no file is named by: no name/,
      async () => Promise.reject(new FormatError("no name")),
    ],
    [
      "leave a file open",
      /^expected 1 to be \+?0/,
      async (folder) => void (await folder.open("config.json")),
    ],
    [
      "leave the folder",
      /\.\.\/config\.json/,
      async (folder) => void (await folder.exists("../config.json")),
    ],
    ["take memory", disproportionate, async () => void new Float64Array(2 ** 30)],
    ["make a list", disproportionate, async () => void Array.from({ length: 2 ** 30 })],
    [
      "hide that it was refused memory",
      disproportionate,
      async () => {
        try {
          expect(new ArrayBuffer(2 ** 32)).toBeUndefined();
        } catch {
          throw new FormatError("fuzzed/config.json: no memory");
        }
      },
    ],
    [
      "look again and again",
      disproportionate,
      async (folder) => {
        for (let i = 0; i < 1000; i++) await folder.exists("config.json");
      },
    ],
    [
      "read again and again",
      disproportionate,
      async (folder) => {
        const file = await folder.open("config.json");
        for (let i = 0; i < 20; i++) await file.read(0, file.size);
        await file.close();
      },
    ],
  ])("%s", async (_, problem, read) => {
    await expect(checkReading(files, read)).rejects.toThrow(problem);
  });
});

test("a refusal that names the file is returned", async () => {
  const refusal = new FormatError("fuzzed/config.json: no model_type");
  const read = async (folder: Folder): Promise<void> => {
    await folder.exists("config.json");
    throw refusal;
  };
  expect(await checkReading(files, read)).toBe(refusal);
  expect(refusal).toBeInstanceOf(TransmlaError);
});

test("memory is counted once, and the constructors are put back", async () => {
  const { from } = Array;
  const Original = Float32Array;
  const bytes = await countAllocations(1000, async () => {
    const values = new Float32Array(10);
    expect(values).toBeInstanceOf(Original);
    expect(new Uint8Array(values.buffer)).toHaveLength(40); // a view
  });
  expect(bytes).toBe(40);
  expect(Float32Array).toBe(Original);
  expect(Array.from).toBe(from);
});
