import { join } from "node:path";

import { bundledModel } from "../../bundled.ts";
import type { ConversionMethod } from "../../convert/conversion.ts";
import { convert } from "../../convert/convert.ts";
import { compare, cutWindows } from "../../evaluate/evaluate.ts";
import { formatBytes } from "../../format-bytes.ts";
import { cacheBytes } from "../../model/cache-size.ts";
import { cacheWidth } from "../../model/config/model-config.ts";
import type { Model } from "../../model/model.ts";
import { openModel, type CommandContext } from "../context.ts";
import { describeAttention, describeModel } from "../describe.ts";
import { readTextFile } from "../inputs.ts";
import { formatCount, formatSmall } from "../report.ts";
import { streamText } from "./generate.ts";

const methods: readonly { readonly name: string; readonly method: ConversionMethod }[] = [
  { name: "factored (svd)", method: { method: "factored", init: "svd" } },
  { name: "factored (identity)", method: { method: "factored", init: "identity" } },
  { name: "merged", method: { method: "merged" } },
];

/** Held-out tokens that the models are compared on. */
const COMPARED_TOKENS = 512;

/** The main job on the bundled model: load, convert exactly, compare, generate. Needs no network. */
export async function demo(context: CommandContext): Promise<number> {
  const { report, signal } = context;
  using original = await openModel(bundledModel, context);
  const { config } = original;
  report.heading("The bundled model");
  report.line(describeModel(config, original.parameters));
  report.line(describeAttention(config.attention));
  report.line();

  const ids = original.assets.tokenizer!.encode(
    await readTextFile(join(bundledModel, "sample.txt")),
  );
  const windows = cutWindows(ids.slice(0, COMPARED_TOKENS), config.contextLength);
  report.heading(`Conversions to latent attention, compared on ${COMPARED_TOKENS} held-out tokens`);
  const converted: Model[] = [];
  try {
    for (const { method } of methods)
      converted.push(await convert(original, { ...method, signal }));
    const progress = report.progress("comparing");
    const comparisons = await compare(original, converted, windows, {
      signal,
      onProgress: (done, total) => progress({ done, total, unit: "windows" }),
    });
    const size = (model: Model): string[] => [
      formatCount(model.parameters),
      String(cacheWidth(model.config.attention)),
    ];
    const results = methods.map(({ name }, i) => ({ name, ...comparisons[i]! }));
    report.table([
      [
        "form",
        "parameters",
        "numbers per token and layer",
        "max |Δlogit|",
        "mean KL",
        "top-1 agreement",
      ],
      ["original", ...size(original), "", "", ""],
      ...results.map(({ name, maxLogitDifference, meanKl, topAgreement }, i) => [
        name,
        ...size(converted[i]!),
        formatSmall(maxLogitDifference),
        formatSmall(meanKl),
        `${(100 * topAgreement).toFixed(2)} %`,
      ]),
    ]);
    const cache = cacheBytes(config, config.contextLength, "f32");
    report.line(
      `These conversions are exact and keep the cache: ${formatBytes(cache)} for ${config.contextLength} tokens in f32.`,
    );
    const same = await sameText(original, converted.at(-1)!, context);
    const equal = results.every(({ maxLogitDifference }) => maxLogitDifference <= 1e-4);
    report.result({ parameters: original.parameters, results, sameText: same });
    return same && equal ? 0 : 1;
  } finally {
    for (const model of converted) model[Symbol.dispose]();
  }
}

/** Streams a few lines from both models with one seed; tells whether they are the same. */
async function sameText(
  original: Model,
  merged: Model,
  { report, signal }: CommandContext,
): Promise<boolean> {
  const prompt = "ROMEO:\n";
  const options = { maxTokens: 60, temperature: 0.8, topP: 0.95, seed: 3, signal };
  const texts: string[] = [];
  for (const [name, model] of [
    ["original", original],
    ["merged", merged],
  ] as const) {
    report.line();
    report.heading(`Text from the ${name} model, seed ${options.seed}`);
    report.write(prompt);
    texts.push((await streamText(model, prompt, options, report)).text);
    report.line();
  }
  const same = texts[0] === texts[1];
  report.line();
  report.line(same ? "Both texts are identical." : "The texts differ.");
  return same;
}
