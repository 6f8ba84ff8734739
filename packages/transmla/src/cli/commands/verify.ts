import { compare } from "../../evaluate/evaluate.ts";
import { openModel, type CommandContext, type StorageOptions } from "../context.ts";
import { readWindows, type TextOptions } from "../inputs.ts";
import { formatSmall } from "../report.ts";

/** Options of `transmla verify`. */
export interface VerifyOptions extends TextOptions, StorageOptions {
  readonly tolerance: number;
}

/** Compares the logits of two models; the exit code is 1 when they differ by more than the tolerance. */
export async function verify(
  a: string,
  b: string,
  options: VerifyOptions,
  context: CommandContext,
): Promise<number> {
  const { report, signal } = context;
  using first = await openModel(a, context);
  using second = await openModel(b, context, options);
  const { windows, from } = await readWindows(first, options);
  const progress = report.progress("comparing");
  const [result] = await compare(first, [second], windows, {
    signal,
    cacheDType: options.kvDtype,
    onProgress: (done, total) => progress({ done, total, unit: "windows" }),
  });
  if (!result) throw new TypeError("verify: nothing was compared");
  const passed = result.maxLogitDifference <= options.tolerance;
  report.remark(from);
  report.line(`max |Δlogit|     ${formatSmall(result.maxLogitDifference)}`);
  report.line(`mean KL          ${formatSmall(result.meanKl)} nats`);
  report.line(`top-1 agreement  ${(100 * result.topAgreement).toFixed(2)} %`);
  report.line(
    `perplexity       ${result.perplexity.map((value) => value.toFixed(4)).join(" and ")}`,
  );
  report.line(
    passed
      ? `equal within ${options.tolerance}`
      : `not equal: the tolerance is ${options.tolerance}`,
  );
  report.result({ a, b, text: from, tolerance: options.tolerance, passed, ...result });
  return passed ? 0 : 1;
}
