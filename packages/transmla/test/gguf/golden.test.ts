// Dequantized values, logits and greedy tokens of GGUF files, computed with the gguf package and Transformers.
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { diskFolder } from "../../src/checkpoint/disk.ts";
import { readGguf, readGgufFloats } from "../../src/checkpoint/gguf/file.ts";
import { openSafetensors } from "../../src/checkpoint/safetensors.ts";
import { generate } from "../../src/generate/generate.ts";
import { loadModel } from "../../src/load.ts";
import { cpuBackends } from "../backends.ts";
import { hasShared, shared } from "../shared.ts";
import { readWhole } from "./writer.ts";

/** f32 against the f32 of another library: the README of the golden data measures 2.5e-5 against f64. */
const TOLERANCE = 1e-4;

interface Golden {
  readonly input_ids: readonly number[];
  readonly greedy_tokens: readonly number[];
  readonly alignment: number;
  readonly tensors: Readonly<
    Record<
      string,
      {
        readonly type: string;
        readonly shape: readonly number[];
        readonly sum: number;
        readonly abs_sum: number;
      }
    >
  >;
}

const folder = join(shared, "fixtures/gguf");

describe
  .skipIf(!hasShared("fixtures/gguf"))
  .each(["llama-f32-f16-bf16", "llama-legacy-quants-ropefreqs", "llama-kquants"])("%s", (name) => {
  const readGolden = (): Golden =>
    JSON.parse(readFileSync(join(folder, `${name}.golden.json`), "utf8")) as Golden;

  test("has the types, shapes and values of the gguf package", async () => {
    const golden = readGolden();
    const expected = await openSafetensors(
      await diskFolder(folder).open(`${name}.golden.safetensors`),
    );
    const file = await diskFolder(folder).open(`${name}.gguf`);
    const { tensors, version } = await readGguf(file);
    expect(version).toBe(3);
    expect([...tensors.keys()].toSorted()).toEqual(Object.keys(golden.tensors).toSorted());
    for (const tensor of tensors.values()) {
      const facts = golden.tensors[tensor.name]!;
      expect([tensor.type.name, tensor.shape]).toEqual([facts.type, facts.shape]);
      expect(tensor.begin % golden.alignment).toBe(0);
      const values = await readWhole(file, tensor);
      const [sum, absolute, largest] = values.reduce(
        ([sum, absolute, largest], x) => [
          sum + x,
          absolute + Math.abs(x),
          Math.max(largest, Math.abs(x)),
        ],
        [0, 0, 0] as [number, number, number],
      );
      expect(Math.abs(sum - facts.sum)).toBeLessThanOrEqual(1e-5 * facts.abs_sum);
      expect(Math.abs(absolute - facts.abs_sum)).toBeLessThanOrEqual(1e-5 * facts.abs_sum);
      const first = await expected.numbers(`deq.${tensor.name}`);
      const tolerance = /^(?:F32|F16|BF16|Q8_0)$/.test(facts.type) ? 0 : 1e-6 * largest;
      const difference = Math.max(...first.map((x, i) => Math.abs(x - values[i]!)));
      expect(difference).toBeLessThanOrEqual(tolerance);
      expect(await readGgufFloats(file, tensor)).toEqual(Float32Array.from(values));
    }
    await file.close();
    await expected.close();
  });

  test.each(cpuBackends)(
    "has the logits and the greedy text of Transformers (%s)",
    async (_, backend) => {
      const { input_ids: ids, greedy_tokens: tokens } = readGolden();
      const expected = await openSafetensors(
        await diskFolder(folder).open(`${name}.golden.safetensors`),
      );
      const model = await loadModel(join(folder, `${name}.gguf`), { backend });
      {
        using cache = model.createCache(ids.length);
        using logits = model.forward(ids, cache, { logits: "all" });
        const values = await logits.read();
        const wanted = await expected.numbers("logits");
        expect(values.length).toBe(wanted.length);
        const difference = Math.max(...wanted.map((x, i) => Math.abs(x - values[i]!)));
        expect(difference).toBeLessThan(TOLERANCE);
      }
      const greedy: number[] = [];
      const options = { maxTokens: tokens.length, ignoreEnd: true };
      for await (const { id } of generate(model, ids, options)) greedy.push(id);
      expect(greedy).toEqual(tokens);
      await expected.close();
      model[Symbol.dispose]();
      expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
    },
  );
});
