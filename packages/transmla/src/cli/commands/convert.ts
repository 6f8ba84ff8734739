import { ArgumentError, fail } from "@transmla/core";

import { createOutputFolder } from "../../checkpoint/disk.ts";
import type { Folder } from "../../checkpoint/folder.ts";
import type { ConversionMethod } from "../../convert/conversion.ts";
import { convertCheckpoint } from "../../convert/convert.ts";
import type { LayerReport } from "../../convert/latent/method.ts";
import type { OutputDType } from "../../convert/merged.ts";
import { asFolder, readConfig } from "../../load.ts";
import { parseConfig } from "../../model/config/families.ts";
import { cacheWidth } from "../../model/config/model-config.ts";
import { drawLayers } from "../../picture/layers.ts";
import { latentConversion, type LatentOptions } from "../calibration.ts";
import type { CommandContext } from "../context.ts";
import { describeAttention } from "../describe.ts";
import { formatCount, formatSmall } from "../report.ts";
import { writeText } from "../write-text.ts";

/** Options of `transmla convert`. */
export interface ConvertCommandOptions extends LatentOptions {
  readonly method: ConversionMethod["method"];
  readonly init?: "svd" | "identity";
  readonly dtype: OutputDType;
  readonly svg?: string;
}

/** Converts a checkpoint to another folder. */
export async function convertCommand(
  from: string,
  to: string,
  options: ConvertCommandOptions,
  context: CommandContext,
): Promise<void> {
  const { report, signal, backend } = context;
  const folder = await asFolder(from, {
    signal,
    onDownload: report.progress(`downloading ${from}`),
  });
  const { config: before } = await readConfig(folder);
  if (options.svg !== undefined && options.method !== "latent") {
    fail(ArgumentError, "--svg", `draws the layers of --method latent, not of ${options.method}`);
  }
  const layers: LayerReport[] = [];
  const output = await createOutputFolder(to);
  let method: ConversionMethod;
  try {
    method = await chooseMethod(from, folder, options, context, layers);
  } catch (error) {
    await output.discard();
    throw error;
  }
  const { config, parameters, rounding } = await convertCheckpoint(folder, output, {
    ...method,
    dtype: options.dtype,
    backend,
    signal,
    onProgress: report.progress("converting"),
  });
  const after = parseConfig(config);
  if (options.svg !== undefined) await writeText(options.svg, drawLayers(layers));
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

async function chooseMethod(
  from: string,
  folder: Folder,
  options: ConvertCommandOptions,
  context: CommandContext,
  layers: LayerReport[],
): Promise<ConversionMethod> {
  switch (options.method) {
    case "factored":
      return { method: "factored", init: options.init, target: options.target };
    case "merged":
      return { method: "merged", target: options.target };
    case "latent":
      return {
        ...(await latentConversion(from, folder, options, context)),
        onLayer: (layer) => layers.push(layer),
      };
  }
}
