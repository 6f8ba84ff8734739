import { existsSync } from "node:fs";
import { join } from "node:path";

import { FormatError, UnsupportedError } from "@transmla/core";
import { describe, expect, test } from "vitest";

import { diskFolder } from "../../src/checkpoint/disk.ts";
import { blobFolder, FileError, type Folder } from "../../src/checkpoint/folder.ts";
import { openCheckpoint } from "../../src/checkpoint/shards.ts";
import { elementCount } from "../../src/checkpoint/tensors.ts";
import { folderOf, rawFile } from "./files.ts";

/** A safetensors file of U8 tensors with one element each. */
const shard = (...names: string[]): Uint8Array<ArrayBuffer> => {
  const entry = (i: number) => ({ dtype: "U8", shape: [1], data_offsets: [i, i + 1] });
  const bytes = rawFile(Object.fromEntries(names.map((name, i) => [name, entry(i)])), names.length);
  names.forEach((_, i) => (bytes[bytes.length - names.length + i] = i + 1));
  return bytes;
};
const index = (map: unknown): string => JSON.stringify({ metadata: {}, weight_map: map });
const indexName = "model.safetensors.index.json";

describe("a sharded checkpoint", () => {
  const good = {
    [indexName]: index({ a: "s1.safetensors", b: "s2.safetensors", c: "s1.safetensors" }),
    "s1.safetensors": shard("c", "a"),
    "s2.safetensors": shard("b"),
  };

  test("reads from the shards that the index names", async () => {
    const source = await openCheckpoint(folderOf({ ...good, "other.safetensors": shard("z") }));
    expect([...source.tensors.keys()].toSorted()).toEqual(["a", "b", "c"]);
    expect(await source.numbers("a")).toEqual(Float64Array.of(2));
    expect(await source.bytes("b")).toEqual(Uint8Array.of(1));
  });

  test("gives way to a single file, as in Transformers", async () => {
    const source = await openCheckpoint(folderOf({ ...good, "model.safetensors": shard("z") }));
    expect([...source.tensors.keys()]).toEqual(["z"]);
  });

  test("keeps no file open, whatever fails", async () => {
    let opened = 0;
    const counting = (folder: Folder): Folder => ({
      ...folder,
      open: async (name) => {
        const file = await folder.open(name);
        opened++;
        return { ...file, close: async () => void opened-- };
      },
    });
    const source = await openCheckpoint(counting(folderOf(good)));
    expect(opened).toBe(0);
    await Promise.all([source.numbers("a"), source.numbers("b"), source.bytes("c")]);
    expect(opened).toBe(0);
    const broken = counting(folderOf({ ...good, "s2.safetensors": rawFile("") }));
    await expect(openCheckpoint(broken)).rejects.toThrow(FormatError);
    expect(opened).toBe(0);
  });

  test("notices that a shard was replaced", async () => {
    const files = new Map(Object.entries(good).map(([name, text]) => [name, new Blob([text])]));
    const source = await openCheckpoint(blobFolder(files, "dir"));
    const before = files.get("s2.safetensors")!.size;
    files.set("s2.safetensors", new Blob([shard("b", "c")]));
    const after = files.get("s2.safetensors")!.size;
    await expect(source.numbers("b")).rejects.toThrow(
      new FileError(
        `openCheckpoint: changed from ${before} to ${after} bytes since it was opened (dir/s2.safetensors)`,
      ),
    );
  });

  test.each([
    ["no map", "{}", "weight_map is undefined, not an object"],
    ["an array", "[]", "weight_map is undefined, not an object"],
    [
      "a map of another kind",
      index(["s1.safetensors"]),
      'weight_map is ["s1.safetensors"], not an object',
    ],
    [
      "a shard that is a number",
      index({ a: 1 }),
      'weight_map places tensor "a" in 1, which is not the name of a .safetensors file',
    ],
    ...[
      "../s1.safetensors",
      "/s1.safetensors",
      "x\\s1.safetensors",
      "C:s1.safetensors",
      "s1.bin",
      "",
      "..",
    ].map(
      (name) =>
        [
          `the shard name ${name}`,
          index({ a: name }),
          `weight_map places tensor "a" in ${JSON.stringify(name)}, which is not the name of a .safetensors file`,
        ] as const,
    ),
    [
      "a tensor that no shard has",
      index({ a: "s1.safetensors", c: "s1.safetensors", b: "s2.safetensors", d: "s2.safetensors" }),
      'tensor "d" is not in s2.safetensors, where the index places it',
    ],
    [
      "a tensor that the index lacks",
      index({ a: "s1.safetensors", b: "s2.safetensors" }),
      'tensor "c" is in s1.safetensors, but the index does not name it',
    ],
    [
      "a tensor in another shard",
      index({
        a: "s1.safetensors",
        c: "s1.safetensors",
        b: "s1.safetensors",
        "b'": "s2.safetensors",
      }),
      'tensor "b" is in s2.safetensors, but the index places it in s1.safetensors',
    ],
  ] as const)("with an index that has %s is refused", async (_, text, problem) => {
    await expect(openCheckpoint(folderOf({ ...good, [indexName]: text }))).rejects.toThrow(
      new FormatError(`openCheckpoint: ${problem} (dir/${indexName})`),
    );
  });

  test("with one tensor in two shards is refused", async () => {
    const files = { ...good, "s2.safetensors": shard("b", "a") };
    await expect(openCheckpoint(folderOf(files))).rejects.toThrow(
      new FormatError(
        `openCheckpoint: tensor "a" is in s2.safetensors, but the index places it in s1.safetensors (dir/${indexName})`,
      ),
    );
  });

  test("with a tensor twice in the index is refused", async () => {
    const text = '{"weight_map":{"a":"s1.safetensors","a":"s2.safetensors"}}';
    await expect(openCheckpoint(folderOf({ ...good, [indexName]: text }))).rejects.toThrow(
      new FormatError(`readJson: repeated key "a" at character 36 (dir/${indexName})`),
    );
  });

  test("with a missing shard names it", async () => {
    const { "s2.safetensors": _, ...files } = good;
    await expect(openCheckpoint(folderOf(files))).rejects.toThrow(
      new FileError("open: no such file (dir/s2.safetensors)"),
    );
  });

  test("of too many shards is refused before any is opened", async () => {
    const map = Object.fromEntries(
      Array.from({ length: 10_001 }, (_, i) => [i, `${i}.safetensors`]),
    );
    await expect(openCheckpoint(folderOf({ [indexName]: index(map) }))).rejects.toThrow(
      new FormatError(
        `openCheckpoint: 10001 shards are above the limit of 10000 (dir/${indexName})`,
      ),
    );
  });

  test("of an index above the limit is refused unread", async () => {
    const folder = folderOf(good);
    const open = async (name: string) => ({ ...(await folder.open(name)), size: 100_000_001 });
    await expect(openCheckpoint({ ...folder, open })).rejects.toThrow(
      new FormatError(
        `readJson: 100000001 bytes are more than the limit of 100000000 (dir/${indexName})`,
      ),
    );
  });
});

describe("a folder without safetensors", () => {
  test("is told what was looked for", async () => {
    await expect(openCheckpoint(folderOf({ "x.safetensors": shard("a") }))).rejects.toThrow(
      new FormatError(
        "openCheckpoint: there is neither model.safetensors nor model.safetensors.index.json (dir)",
      ),
    );
  });

  test.each(["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"])(
    "but with %s is told the way out",
    async (name) => {
      await expect(openCheckpoint(folderOf({ [name]: "" }))).rejects.toThrow(
        new UnsupportedError(
          `openCheckpoint: ${name} is a PyTorch pickle, which runs code when it is read; save it ` +
            "with Transformers: save_pretrained(folder, safe_serialization=True) (dir)",
        ),
      );
    },
  );
});

const shared = join(import.meta.dirname, "../../../../../shared/fixtures/models");
describe.skipIf(!existsSync(shared))(
  "checkpoints that Transformers wrote (needs ../shared)",
  () => {
    test("llama-gqa-sharded", async () => {
      const source = await openCheckpoint(diskFolder(join(shared, "llama-gqa-sharded")));
      expect(source.tensors.size).toBe(21);
      let elements = 0;
      for (const { name, dtype, shape } of source.tensors.values()) {
        expect(dtype).toBe("F32");
        const values = await source.numbers(name);
        expect(values.length).toBe(elementCount(shape));
        expect(values.every(Number.isFinite)).toBe(true);
        elements += values.length;
      }
      expect(elements).toBe(20_640); // total_parameters of the index
      expect(source.tensors.get("model.layers.1.mlp.down_proj.weight")?.shape).toEqual([32, 48]);
      await source.close();
    });

    test("llama-gqa-bf16", async () => {
      const source = await openCheckpoint(diskFolder(join(shared, "llama-gqa-bf16")));
      expect(source.tensors.size).toBe(21);
      const name = "model.embed_tokens.weight";
      expect(source.tensors.get(name)).toMatchObject({ name, dtype: "BF16", shape: [80, 32] });
      const values = await source.numbers(name);
      // A bf16 is the upper half of an f32.
      const stored = new DataView((await source.bytes(name)).slice().buffer);
      const wide = new DataView(new ArrayBuffer(4));
      const expected = values.map((_, i) => {
        wide.setUint16(0, stored.getUint16(2 * i, true));
        return wide.getFloat32(0);
      });
      expect(values).toEqual(expected);
      await source.close();
    });

    test("llama-gqa-fp16", async () => {
      const source = await openCheckpoint(diskFolder(join(shared, "llama-gqa-fp16")));
      const values = await source.numbers("model.embed_tokens.weight");
      expect(source.tensors.get("model.embed_tokens.weight")?.dtype).toBe("F16");
      // Eleven significant bits, none below 2^-24.
      expect(values.every((x) => Number.isInteger(x * 2 ** 24))).toBe(true);
      await source.close();
    });
  },
);
