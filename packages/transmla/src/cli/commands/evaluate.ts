import { evaluate } from "../../evaluate/evaluate.ts";
import { formatBytes } from "../../format-bytes.ts";
import { cacheBytes } from "../../model/cache-size.ts";
import { openModel, type CommandContext, type StorageOptions } from "../context.ts";
import { readWindows, type TextOptions } from "../inputs.ts";

/** Prints the perplexity of a model on a text. */
export async function evaluateCommand(
  path: string,
  options: TextOptions & StorageOptions,
  context: CommandContext,
): Promise<void> {
  const { report, signal } = context;
  using model = await openModel(path, context, options);
  const { windows, from } = await readWindows(model, options);
  const progress = report.progress("evaluating");
  const result = await evaluate(model, windows, {
    signal,
    cacheDType: options.kvDtype,
    onProgress: (done, total) => progress({ done, total, unit: "windows" }),
  });
  report.remark(`${from}; windows do not overlap, and the first token of each is not predicted`);
  report.line(`perplexity     ${result.perplexity.toFixed(4)}`);
  report.line(`cross-entropy  ${result.crossEntropy.toFixed(4)} nats per token`);
  report.line(`predicted      ${result.tokens} tokens`);
  const bytesPerToken = cacheBytes(model.config, 1, options.kvDtype);
  report.line(`cache          ${formatBytes(bytesPerToken)} per token in ${options.kvDtype}`);
  report.result({ model: path, text: from, ...result, bytesPerToken });
}
