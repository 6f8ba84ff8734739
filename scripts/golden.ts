// Prints how far every model with golden values is from Hugging Face Transformers: the largest difference of a logit, of
// all positions at once and of one position after the other, and whether the greedy tokens are the same; and how far each
// exact conversion is from the model. "-" is what a conversion refuses.
//
//   npm run golden [folder]      the folder of the models (default: ../shared/fixtures/models)
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { cpuBackend } from "@transmla/backend-cpu";
import { compare, convert, generate, loadModel, type ConversionMethod, type Model } from "transmla";

import { diskFolder } from "../packages/transmla/src/checkpoint/disk.ts";
import { openSafetensors } from "../packages/transmla/src/checkpoint/safetensors.ts";

interface Golden {
  readonly input_ids: readonly number[];
  readonly greedy_tokens: readonly number[];
}

/** Transformers sets the embedding of the padding token to zero when it loads this one, so its logit is 0 there. */
const clearsPadding: Readonly<Record<string, number>> = { youtu: 0 };

const folder = process.argv[2] ?? join(import.meta.dirname, "../../shared/fixtures/models");
const backend = await cpuBackend();

/** Logits of all positions, the tokens given in pieces. */
async function logitsOf(model: Model, ids: readonly number[], step: number): Promise<Float32Array> {
  const vocabulary = model.config.vocabSize;
  const all = new Float32Array(ids.length * vocabulary);
  using cache = model.createCache(ids.length);
  for (let at = 0; at < ids.length; at += step) {
    using logits = model.forward(ids.slice(at, at + step), cache, { logits: "all" });
    all.set(await logits.read(), at * vocabulary);
  }
  return all;
}

const conversions: Readonly<Record<string, ConversionMethod>> = {
  factored: { method: "factored" },
  "merged, own": { method: "merged", target: "own" },
  "merged, transformers": { method: "merged" },
};

/** The largest difference of a logit that a conversion makes; "-" where it is refused. */
async function converted(
  model: Model,
  ids: readonly number[],
  method: ConversionMethod,
): Promise<string> {
  let result: Model;
  try {
    result = await convert(model, method);
  } catch {
    return "-";
  }
  using made = result;
  const [compared] = await compare(model, [made], [ids]);
  return compared!.maxLogitDifference.toExponential(1);
}

const columns = Object.keys(conversions);
const rows = [["model", "family", "all at once", "step by step", "greedy", ...columns]];
for (const name of readdirSync(folder)) {
  const path = join(folder, name);
  const golden = JSON.parse(readFileSync(join(path, "golden.json"), "utf8")) as Golden;
  const file = await openSafetensors(await diskFolder(path).open("golden.safetensors"));
  const expected = await file.numbers("logits");
  await file.close();
  using model = await loadModel(path, { backend });
  const ids = golden.input_ids;
  const difference = async (step: number): Promise<string> => {
    const found = await logitsOf(model, ids, step);
    const cleared = clearsPadding[name];
    const differences = found.map((x, i) =>
      i % model.config.vocabSize === cleared ? 0 : Math.abs(x - expected[i]!),
    );
    return Math.max(...differences).toExponential(1);
  };
  const tokens: number[] = [];
  const count = golden.greedy_tokens.length;
  using cache = model.createCache(ids.length + count);
  const options = { maxTokens: count, temperature: 0, ignoreEnd: true, cache };
  for await (const { id } of generate(model, ids, options)) tokens.push(id);
  const same = tokens.every((id, i) => id === golden.greedy_tokens[i]);
  // Keys keep the rotation that they entered with: step by step it is another where the rotation depends on the length.
  const depends = model.config.ropes.some((rope) => rope?.dynamic ?? rope?.long);
  const each = Object.values(conversions);
  const exact: string[] = [];
  for (const method of each) exact.push(await converted(model, ids, method));
  rows.push([
    name,
    model.config.family,
    await difference(ids.length),
    depends ? "(other rotation)" : await difference(1),
    same ? "same" : "DIFFERENT",
    ...exact,
  ]);
}
const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
for (const row of rows) {
  console.log(
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join("  ")
      .trimEnd(),
  );
}
