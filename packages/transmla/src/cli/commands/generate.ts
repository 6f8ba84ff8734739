import { formatBytes } from "../../format-bytes.ts";
import {
  generate,
  type GenerateOptions,
  type GenerationStatistics,
} from "../../generate/generate.ts";
import type { Model } from "../../model/model.ts";
import { openModel, type CommandContext, type StorageOptions } from "../context.ts";
import type { Report } from "../report.ts";

/** Sampling flags as commander parses them. */
export interface SamplingFlags {
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly seed?: number;
  readonly stop?: readonly string[];
}

/** Flags over the defaults of the model's `generation_config.json`. */
export function generateOptions(
  model: Model,
  flags: SamplingFlags,
  signal: AbortSignal,
): GenerateOptions {
  const given = Object.fromEntries(
    Object.entries(flags).filter(([, value]) => value !== undefined),
  );
  return { ...model.assets.sampling, ...given, signal };
}

/** One line of figures. */
export function describeStatistics(statistics: GenerationStatistics): string {
  const { promptTokens, tokens, prefillTokensPerSecond, decodeTokensPerSecond, cacheBytes } =
    statistics;
  return (
    `prompt ${promptTokens} tokens at ${prefillTokensPerSecond.toFixed(1)}/s, generated ${tokens} at ` +
    `${decodeTokensPerSecond.toFixed(1)}/s, cache ${formatBytes(cacheBytes)}`
  );
}

/** Prints a continuation as it is generated. */
export async function streamText(
  model: Model,
  prompt: string | readonly number[],
  options: GenerateOptions,
  report: Report,
): Promise<{ ids: number[]; text: string; statistics: GenerationStatistics }> {
  const ids: number[] = [];
  let text = "";
  let statistics: GenerationStatistics | undefined;
  for await (const piece of generate(model, prompt, {
    ...options,
    onFinish: (measured) => (statistics = measured),
  })) {
    ids.push(piece.id);
    text += piece.text;
    report.write(piece.text);
  }
  return { ids, text, statistics: statistics! };
}

/** Continues a prompt. */
export async function generateCommand(
  path: string,
  {
    prompt,
    weights,
    activations,
    kvDtype,
    ...flags
  }: SamplingFlags & StorageOptions & { readonly prompt: string },
  context: CommandContext,
): Promise<void> {
  const { report, signal, backend } = context;
  using model = await openModel(path, context, { weights, activations });
  report.write(prompt);
  const options = { ...generateOptions(model, flags, signal), cacheDType: kvDtype };
  const result = await streamText(model, prompt, options, report);
  report.line();
  report.remark(
    `${describeStatistics(result.statistics)}, memory ${formatBytes(backend.memory().bytes)}`,
  );
  report.result({ model: path, prompt, ...result, memoryBytes: backend.memory().bytes });
}
