import { expect, test } from "vitest";

import { blobFolder, type Folder } from "../../src/checkpoint/folder.ts";
import { memoryOutput } from "../../src/checkpoint/output.ts";
import { CHUNK_ELEMENTS, elementCount } from "../../src/checkpoint/tensors.ts";
import { planTensors } from "../../src/convert/conversion.ts";
import { convertCheckpoint } from "../../src/convert/convert.ts";
import { parseConfig } from "../../src/model/config/families.ts";
import { written } from "../checkpoint/files.ts";

const json = {
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 64,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 40_000, // an embedding of two and a half pieces
  max_position_embeddings: 64,
  tie_word_embeddings: true,
};

test("a tensor that is carried over is read and written a piece at a time", async () => {
  const tensors = planTensors(parseConfig(json), () => false).map(({ name, shape }) => {
    const values = Float32Array.from({ length: elementCount(shape) }, (_, i) => i % 1000);
    return { name, shape, dtype: "F32" as const, values };
  });
  const source = blobFolder(
    new Map([
      ...(await written(tensors)),
      ["config.json", new Blob([JSON.stringify(json)])] as const,
    ]),
  );
  let largestRead = 0;
  const watched: Folder = {
    ...source,
    open: async (name) => {
      const file = await source.open(name);
      const read = async (begin: number, end: number): Promise<Uint8Array> => {
        largestRead = Math.max(largestRead, end - begin);
        return file.read(begin, end);
      };
      return { ...file, read };
    },
  };
  let largestWrite = 0;
  const output = memoryOutput();
  const create: typeof output.create = async (name) => {
    const sink = await output.create(name);
    const write: typeof sink.write = async (position, bytes) => {
      largestWrite = Math.max(largestWrite, bytes.length);
      await sink.write(position, bytes);
    };
    return { ...sink, write };
  };
  await convertCheckpoint(watched, { ...output, create }, { method: "merged" });
  expect(largestRead).toBe(4 * CHUNK_ELEMENTS);
  expect(largestWrite).toBe(4 * CHUNK_ELEMENTS);
});
