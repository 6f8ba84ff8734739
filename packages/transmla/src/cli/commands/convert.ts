import { createOutputFolder } from "../../checkpoint/disk.ts";
import type { ConversionMethod } from "../../convert/conversion.ts";
import { convertCheckpoint } from "../../convert/convert.ts";
import type { OutputDType } from "../../convert/merged.ts";
import { asFolder, readConfig } from "../../load.ts";
import { cacheWidth } from "../../model/config.ts";
import { parseConfig } from "../../model/families.ts";
import { describeAttention } from "../describe.ts";
import { formatCount, formatSmall, type Report } from "../report.ts";

/** Options of `transmla convert`. */
export interface ConvertCommandOptions {
  readonly method: "factored" | "merged";
  readonly init?: "svd" | "identity";
  readonly dtype: OutputDType;
}

/** Converts a checkpoint to another folder. */
export async function convertCommand(
  from: string,
  to: string,
  options: ConvertCommandOptions,
  { report, signal }: { readonly report: Report; readonly signal: AbortSignal },
): Promise<void> {
  const folder = await asFolder(from, {
    signal,
    onDownload: report.progress(`downloading ${from}`),
  });
  const { config: before } = await readConfig(folder);
  const output = await createOutputFolder(to);
  const method: ConversionMethod =
    options.method === "factored"
      ? { method: "factored", init: options.init }
      : { method: "merged" };
  const { config, parameters, rounding } = await convertCheckpoint(folder, output, {
    ...method,
    dtype: options.dtype,
    signal,
    onProgress: report.progress("converting"),
  });
  const after = parseConfig(config);
  const cache = [cacheWidth(before.attention), cacheWidth(after.attention)];
  report.line(`${to}: ${describeAttention(after.attention)}`);
  report.table([
    ["", "before", "after"],
    ["parameters", ...parameters.map(formatCount)],
    ["cached numbers per token and layer", ...cache.map(formatCount)],
  ]);
  report.line(
    `rounding to ${options.dtype}: ${rounding.exact} of ${rounding.tensors} tensors exact` +
      (rounding.worstName === undefined
        ? ""
        : `, largest relative error ${formatSmall(rounding.worst)} in ${rounding.worstName}`),
  );
  report.result({
    from,
    to,
    method: options.method,
    dtype: options.dtype,
    parameters,
    cachedNumbers: cache,
    rounding,
  });
}
