import { fc, test as prop } from "@fast-check/vitest";
import { ArgumentError, FormatError, StateError } from "@transmla/core";
import { describe, expect, test } from "vitest";

import { FileError, isFileName, readJson, readText } from "../../src/checkpoint/folder.ts";
import { memoryOutput, outputFolder } from "../../src/checkpoint/output.ts";
import { fileOf, folderOf } from "./files.ts";

test("a file name stays inside its folder", () => {
  const good = ["a", "model-00001-of-00002.safetensors", "..a", "a..b", ".a", "a b", "é"];
  const bad = ["", ".", "..", "a/b", "/a", "../a", "a\\b", "C:a", "a\0", "a\nb", "x".repeat(256)];
  expect([...good, ...bad].filter(isFileName)).toEqual(good);
});

describe("blobFolder", () => {
  test("reads ranges", async () => {
    const file = await fileOf([10, 11, 12, 13]);
    expect([file.name, file.size]).toEqual(["dir/x", 4]);
    expect(await file.read(1, 3)).toEqual(Uint8Array.of(11, 12));
    expect(await file.read(4, 4)).toEqual(new Uint8Array(0));
    for (const [begin, end] of [
      [0, 5],
      [-1, 2],
      [3, 2],
      [0.5, 2],
    ] as const) {
      await expect(file.read(begin, end)).rejects.toThrow(
        new ArgumentError(`read: ${begin}..${end} is not inside 4 bytes (dir/x)`),
      );
    }
  });

  test("knows what is there", async () => {
    const folder = folderOf({ a: "" });
    expect(await folder.exists("a")).toBe(true);
    expect(await folder.exists("b")).toBe(false);
    await expect(folder.open("b")).rejects.toThrow(new FileError("open: no such file (dir/b)"));
  });
});

describe("readText and readJson", () => {
  test("drop a byte order mark", async () => {
    expect(await readText(folderOf({ a: "\uFEFFé" }), "a", 10)).toBe("é");
    expect(await readJson(folderOf({ a: "\uFEFF[1]" }), "a", 10)).toEqual([1]);
  });

  test("refuse a file above the limit", async () => {
    const folder = folderOf({ a: "12345" });
    expect(await readText(folder, "a", 5)).toBe("12345");
    await expect(readText(folder, "a", 4)).rejects.toThrow(
      new FormatError("readText: 5 bytes are more than the limit of 4 (dir/a)"),
    );
  });

  test("say where a text is not UTF-8", async () => {
    const bad = Uint8Array.of(0x61, 0xc3, 0xa9, 0xff, 0x62);
    await expect(readText(folderOf({ a: bad }), "a", 10)).rejects.toThrow(
      new FormatError("readText: not UTF-8 near byte 3 (dir/a)"),
    );
    await expect(
      readText(folderOf({ a: Uint8Array.of(0x61, 0xef, 0xbf) }), "a", 10),
    ).rejects.toThrow(new FormatError("readText: not UTF-8 near byte 3 (dir/a)"));
  });

  test("name the file in which JSON is wrong", async () => {
    await expect(readJson(folderOf({ a: "{]" }), "a", 10)).rejects.toThrow(
      /^readJson: not JSON: .+ \(dir\/a\)$/,
    );
  });

  test("bound the nesting", async () => {
    const nested = (depth: number) => folderOf({ a: "[".repeat(depth) + "]".repeat(depth) });
    await expect(readJson(nested(64), "a", 1e6)).resolves.toBeDefined();
    await expect(readJson(nested(65), "a", 1e6)).rejects.toThrow(
      new FormatError("readJson: nested deeper than 64 levels at character 64 (dir/a)"),
    );
    await expect(readJson(nested(100_000), "a", 1e6)).rejects.toThrow(FormatError);
  });

  test("let the last of two equal keys count unless told otherwise", async () => {
    const folder = folderOf({ a: '{"k": {"x": 1}, "l": {"x": 2}, "k": 3}' });
    expect(await readJson(folder, "a", 100)).toEqual({ k: 3, l: { x: 2 } });
    await expect(readJson(folder, "a", 100, true)).rejects.toThrow(
      new FormatError('readJson: repeated key "k" at character 31 (dir/a)'),
    );
  });

  prop.prop([fc.json()])("parse what JSON.parse parses", async (text) => {
    expect(await readJson(folderOf({ a: text }), "a", 1e6)).toEqual(JSON.parse(text));
  });

  prop.prop([fc.jsonValue({ maxDepth: 4 }).map((value) => JSON.stringify(value, null, 1))])(
    "never see a repeated key where there is none",
    async (text) => {
      await expect(readJson(folderOf({ a: text }), "a", 1e6, true)).resolves.toBeDefined();
    },
  );

  const noise = fc.array(fc.constantFrom("{", "}", "[", "]", ",", ":", '"', "\\", " ", "1", "a"), {
    maxLength: 20,
  });
  prop.prop([noise.map((pieces) => pieces.join(""))], { numRuns: 1000 })(
    "throw nothing but FormatError",
    async (text) => {
      const outcome = await readJson(folderOf({ a: text }), "a", 1e6, true).catch(
        (e: unknown) => e,
      );
      if (outcome instanceof Error) expect(outcome).toBeInstanceOf(FormatError);
    },
  );
});

describe("memoryOutput", () => {
  test("shows its files once they are committed", async () => {
    const output = memoryOutput();
    const sink = await output.create("a");
    await sink.write(2000, Uint8Array.of(2));
    await sink.write(0, Uint8Array.of(1));
    await sink.close();
    await output.writeText("b", "é");
    expect(output.files.size).toBe(0);
    await output.commit();
    await output.discard(); // of no effect
    expect([...output.files.keys()]).toEqual(["a", "b"]);
    const a = new Uint8Array(await output.files.get("a")!.arrayBuffer());
    expect([a.length, a[0], a[1], a[2000]]).toEqual([2001, 1, 0, 2]);
    expect(await output.files.get("b")!.text()).toBe("é");
  });

  test("shows nothing when it was discarded", async () => {
    const output = memoryOutput();
    await output.create("a");
    await output.discard();
    expect(output.files.size).toBe(0);
  });

  test("closes a file whose creation ends after discard", async () => {
    const steps: string[] = [];
    let finish = (): void => {};
    const output = outputFolder({
      create: async () => {
        await new Promise<void>((resolve) => (finish = resolve));
        return { write: async () => {}, close: async () => void steps.push("close") };
      },
      commit: async () => {},
      discard: async () => void steps.push("discard"),
    });
    const creation = output.create("a");
    await output.discard();
    finish();
    await expect(creation).rejects.toThrow(
      new StateError("create: the output folder is discarded"),
    );
    expect(steps).toEqual(["discard", "close"]);
  });

  test("refuses what is out of turn", async () => {
    const output = memoryOutput();
    const sink = await output.create("a");
    await expect(output.create("a")).rejects.toThrow(
      new ArgumentError('create: "a" was created before'),
    );
    await expect(output.create("../a")).rejects.toThrow(
      new ArgumentError('create: "../a" is not a plain file name'),
    );
    await expect(output.commit()).rejects.toThrow(new StateError("commit: still open: a"));
    await sink.close();
    await expect(sink.write(0, Uint8Array.of(1))).rejects.toThrow(
      new StateError("write: used after close (a)"),
    );
    await output.commit();
    await expect(output.writeText("b", "")).rejects.toThrow(
      new StateError("create: the output folder is committed"),
    );
    await expect(output.commit()).rejects.toThrow(
      new StateError("commit: the output folder is committed"),
    );
  });
});
