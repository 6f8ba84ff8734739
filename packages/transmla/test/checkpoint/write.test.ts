import { fc, test as prop } from "@fast-check/vitest";
import { ArgumentError, StateError } from "@transmla/core";
import { describe, expect, test } from "vitest";

import { blobFolder } from "../../src/checkpoint/folder.ts";
import { memoryOutput, outputFolder, type OutputFolder } from "../../src/checkpoint/output.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { byteSize } from "../../src/checkpoint/tensors.ts";
import { createCheckpoint } from "../../src/checkpoint/write.ts";
import { models, planned, written } from "./files.ts";

describe("layout", () => {
  prop.prop([models, fc.integer({ min: 1, max: 100 })])(
    "a shard is within the limit or holds one tensor, and two neighbours would not fit one",
    async (tensors, maxShardBytes) => {
      const files = await written(tensors, { maxShardBytes });
      const shards = [...files.keys()].filter((name) => name.endsWith(".safetensors")).toSorted();
      const sizes: number[] = [];
      for (const name of shards) {
        const source = await openSafetensors(await blobFolder(files).open(name));
        const bytes = [...source.tensors.values()].map(byteSize);
        const sum = bytes.reduce((a, b) => a + b, 0);
        expect(sum <= maxShardBytes || bytes.length === 1).toBe(true);
        sizes.push(sum);
      }
      const total = tensors.reduce((sum, t) => sum + byteSize(t), 0);
      if (total <= maxShardBytes) expect(shards).toEqual(["model.safetensors"]);
      expect(sizes.reduce((a, b) => a + b, 0)).toBe(total);
      if (shards.length > 1) {
        const count = String(shards.length).padStart(5, "0");
        expect(shards).toEqual(
          sizes.map((_, i) => `model-${String(i + 1).padStart(5, "0")}-of-${count}.safetensors`),
        );
        const index = JSON.parse(await files.get("model.safetensors.index.json")!.text());
        expect(index.metadata).toEqual({ total_size: total });
        expect(new Set(Object.values(index.weight_map))).toEqual(new Set(shards));
      }
    },
  );

  prop.prop([models])(
    "every tensor is aligned to its elements, data to 8 bytes",
    async (tensors) => {
      const bytes = await (await written(tensors)).get("model.safetensors")!.arrayBuffer();
      const length = Number(new DataView(bytes).getBigUint64(0, true));
      expect(length % 8).toBe(0);
      const header = JSON.parse(new TextDecoder().decode(bytes.slice(8, 8 + length)));
      expect(header["__metadata__"]).toEqual({ format: "pt" });
      for (const { name, dtype } of tensors) {
        const width = { F64: 8, I64: 8, F32: 4, I32: 4, F16: 2, BF16: 2, U8: 1, BOOL: 1 }[dtype];
        expect(header[name].data_offsets[0] % width).toBe(0);
      }
    },
  );

  test("exactly full shards", async () => {
    const plan = ["a", "b", "c", "d"].map((name) =>
      Object.assign(planned(name, [2]), { values: [1, 2] }),
    );
    const names = async (maxShardBytes: number) =>
      [...(await written(plan, { maxShardBytes })).keys()].length;
    expect(await names(32)).toBe(1);
    expect(await names(31)).toBe(2 + 1); // and the index
    expect(await names(16)).toBe(2 + 1);
    expect(await names(15)).toBe(4 + 1);
    expect(await names(1)).toBe(4 + 1);
  });

  test("the text of a file and of an index", async () => {
    const files = await written(
      [
        { ...planned("a", [1], "BF16"), values: [1] },
        { ...planned("b", [], "U8"), values: [7] },
      ],
      { maxShardBytes: 2, metadata: { format: "np" } },
    );
    const text = await files.get("model-00002-of-00002.safetensors")!.text();
    expect(text.slice(8)).toBe(
      '{"__metadata__":{"format":"np"},"b":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}     \u0007',
    );
    expect(await files.get("model.safetensors.index.json")!.text()).toBe(`{
  "metadata": {
    "total_size": 3
  },
  "weight_map": {
    "a": "model-00001-of-00002.safetensors",
    "b": "model-00002-of-00002.safetensors"
  }
}
`);
  });
});

describe("misuse", () => {
  test.each([
    [[], {}, "no tensors are planned"],
    [[planned("a", [1]), planned("a", [2])], {}, 'tensor "a" is planned twice'],
    [
      [planned("__metadata__", [1])],
      {},
      'tensor "__metadata__": the name is reserved for metadata',
    ],
    [
      [planned("a", [1], "F8" as never)],
      {},
      'tensor "a": dtype "F8" is none of F32, F16, BF16, I32, F64, I64, U8, BOOL',
    ],
    [[planned("a", [1.5])], {}, 'tensor "a": shape[0] is 1.5, not an integer from 0 to 4294967296'],
    [
      [planned("a", [2 ** 32, 2 ** 32])],
      {},
      'tensor "a": F32[4294967296,4294967296] takes more than 2^53 bytes',
    ],
    [[planned("a", [1])], { maxShardBytes: 0 }, "maxShardBytes is 0, not above 0"],
    [
      Array.from({ length: 10_001 }, (_, i) => planned(`t${i}`, [1])),
      { maxShardBytes: 4 },
      "10001 shards are above the limit of 10000; raise maxShardBytes from 4",
    ],
  ] as const)("a plan that cannot be laid out: %#", async (plan, options, problem) => {
    await expect(createCheckpoint(memoryOutput(), plan, options)).rejects.toThrow(
      new ArgumentError(`createCheckpoint: ${problem}`),
    );
  });

  test("unplanned, repeated and ill-sized tensors", async () => {
    const writer = await createCheckpoint(memoryOutput(), [planned("a", [2, 2], "BF16")]);
    await expect(writer.write("b", [1])).rejects.toThrow(
      new ArgumentError('write: tensor "b" is not planned'),
    );
    await expect(writer.write("a", [1, 2, 3])).rejects.toThrow(
      new ArgumentError('write: 3 values for tensor "a", expected 4 (BF16[2,2])'),
    );
    await expect(writer.writeBytes("a", new Uint8Array(4))).rejects.toThrow(
      new ArgumentError('write: 4 bytes for tensor "a", expected 8 (BF16[2,2])'),
    );
    await writer.write("a", [1, 2, 3, 4]);
    await expect(writer.writeBytes("a", new Uint8Array(8))).rejects.toThrow(
      new ArgumentError('write: tensor "a" was written before'),
    );
  });

  test("a checkpoint is not closed before it is complete", async () => {
    const plan = Array.from({ length: 8 }, (_, i) => planned(`t${i}`, [1]));
    const output = memoryOutput();
    const writer = await createCheckpoint(output, plan);
    await writer.write("t1", [1]);
    await expect(writer.close()).rejects.toThrow(
      new StateError(
        'close: 7 planned tensors were not written: "t0", "t2", "t3", "t4", "t5" and 2 more',
      ),
    );
    await expect(output.commit()).rejects.toThrow(
      new StateError("commit: still open: model.safetensors"),
    );
    expect(output.files.size).toBe(0);
  });
});

describe("a failing disk", () => {
  /** An output folder that fails at the given operation, counted from 0. */
  function failingAt(fault: number): {
    output: OutputFolder;
    files: Map<string, "open" | "closed">;
  } {
    const files = new Map<string, "open" | "closed">();
    let operations = 0;
    const step = (): void => {
      if (operations++ === fault) throw new Error("no space left on the disk");
    };
    const output = outputFolder({
      create: async (name) => {
        step();
        files.set(name, "open");
        return {
          write: async () => step(),
          close: async () => {
            files.set(name, "closed");
            step();
          },
        };
      },
      commit: async () => step(),
      discard: async () => {
        expect([...files.values()].every((state) => state === "closed")).toBe(true);
        files.clear();
      },
    });
    return { output, files };
  }

  /** Writes two shards, both open at once; null when all went well. */
  async function run(output: OutputFolder): Promise<unknown> {
    const plan = ["a", "b", "c"].map((name) => planned(name, [2]));
    try {
      const writer = await createCheckpoint(output, plan, { maxShardBytes: 16 });
      for (const name of ["c", "a", "b"]) await writer.write(name, [1, 2]);
      await writer.close();
      await output.commit();
      return null;
    } catch (error) {
      return error;
    } finally {
      await output.discard();
    }
  }

  // Two shards of create, header and close, three tensors, an index of three steps, and the commit.
  const steps = 2 * 3 + 3 + 3 + 1;

  test.each(Array.from({ length: steps }, (_, i) => i))(
    "that fails at step %d leaves nothing behind",
    async (fault) => {
      const { output, files } = failingAt(fault);
      expect(await run(output)).toEqual(new Error("no space left on the disk"));
      expect(files.size).toBe(0);
    },
  );

  test("that fails later is not noticed", async () => {
    const { output, files } = failingAt(steps);
    expect(await run(output)).toBeNull();
    expect([...files.values()]).toEqual(["closed", "closed", "closed"]);
  });

  test("a tensor whose write failed counts as missing and can be written again", async () => {
    const output = memoryOutput();
    let broken = true;
    const writer = await createCheckpoint(
      {
        ...output,
        create: async (name) => {
          const sink = await output.create(name);
          return {
            ...sink,
            write: async (position, bytes) => {
              if (broken && position > 0) throw new Error("busy");
              await sink.write(position, bytes);
            },
          };
        },
      },
      [planned("a", [1])],
    );
    await expect(writer.write("a", [1])).rejects.toThrow("busy");
    await expect(writer.close()).rejects.toThrow(
      new StateError('close: 1 planned tensors were not written: "a"'),
    );
    broken = false;
    await writer.write("a", [1]);
    await writer.close();
    await output.commit();
    expect([...output.files.keys()]).toEqual(["model.safetensors"]);
  });
});
