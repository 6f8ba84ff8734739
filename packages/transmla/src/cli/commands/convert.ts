import { ArgumentError, fail } from "@transmla/core";

import { createOutputFile, createOutputFolder } from "../../checkpoint/disk.ts";
import type { Folder } from "../../checkpoint/folder.ts";
import type { ConversionMethod } from "../../convert/conversion.ts";
import { convertCheckpoint, type ConvertCheckpointOptions } from "../../convert/convert.ts";
import type { LayerReport } from "../../convert/latent/method.ts";
import { asFolder, readConfig } from "../../load.ts";
import { parseConfig } from "../../model/config/families.ts";
import { cacheWidth } from "../../model/config/model-config.ts";
import { drawLayers } from "../../picture/layers.ts";
import { latentConversion, type LatentOptions } from "../calibration.ts";
import type { CommandContext } from "../context.ts";
import { describeAttention } from "../describe.ts";
import { formatCount, formatSmall } from "../report.ts";
import type { WorkFolder } from "../work-folder.ts";
import { writeText } from "../write-text.ts";

/** Options of `transmla convert`. */
export interface ConvertCommandOptions extends LatentOptions {
  readonly method?: ConversionMethod["method"];
  readonly init?: "svd" | "identity";
  readonly format: "safetensors" | "gguf";
  readonly dtype: keyof typeof ggufTypes;
  readonly svg?: string;
}

/** The types of GGUF files by the dtypes that users name. */
const ggufTypes = { f32: "F32", bf16: "BF16", f16: "F16", q8_0: "Q8_0" } as const;

/** The dtypes that `--dtype` names. */
export const storedDtypes: readonly string[] = Object.keys(ggufTypes);

/** How the result is stored; throws for what a format does not have. */
function storage({
  method,
  format,
  dtype,
  target,
}: ConvertCommandOptions): Pick<ConvertCheckpointOptions, "gguf" | "dtype"> {
  if (format === "gguf") {
    if (target === undefined || target === "llama.cpp") return { gguf: ggufTypes[dtype] };
    fail(ArgumentError, "--target", `${target} does not read GGUF files; they are for llama.cpp`);
  }
  if (method === undefined) {
    fail(
      ArgumentError,
      "--method",
      "is missing: factored, merged or latent; only --format gguf writes a model as it is",
    );
  }
  if (dtype === "f32" || dtype === "bf16") return { dtype };
  return fail(ArgumentError, "--dtype", `${dtype} is for --format gguf; folders are f32 or bf16`);
}

/** Converts a checkpoint to another folder, or to a GGUF file. */
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
  const stored = storage(options);
  if (options.svg !== undefined && options.method !== "latent") {
    fail(
      ArgumentError,
      "--svg",
      `draws the layers of --method latent, not of ${options.method ?? "none"}`,
    );
  }
  const layers: LayerReport[] = [];
  const output = await (stored.gguf ? createOutputFile(to) : createOutputFolder(to));
  let prepared: Prepared;
  try {
    prepared = await prepare(from, to, folder, options, context);
  } catch (error) {
    await output.discard();
    throw error;
  }
  const { method, work } = prepared;
  const { config, parameters, rounding } = await keepingWork(work, report, () =>
    convertCheckpoint(folder, output, {
      ...method,
      ...stored,
      ...(method.method === "latent" && { onLayer: (layer) => layers.push(layer) }),
      backend,
      signal,
      onProgress: report.progress("converting"),
    }),
  );
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
  const linear = linearErrors(layers);
  if (linear) {
    report.remark(
      "queries and keys are normalised for each head, which DeepSeek-V3 cannot: linear ones in their place change the " +
        `attention outputs by ${formatPercent(linear.mean)} of their energy, and by ${formatPercent(linear.worst)} in ` +
        `layer ${linear.worstLayer}; --target own keeps the norms`,
    );
  }
  report.result({
    from,
    to,
    method: method.method,
    format: options.format,
    dtype: options.dtype,
    parameters,
    cachedNumbers: cache,
    rounding,
    ...(linear && { linear }),
  });
}

/** What linear queries and keys in place of normalised ones cost, where they are. */
function linearErrors(
  layers: readonly LayerReport[],
): { readonly mean: number; readonly worst: number; readonly worstLayer: number } | undefined {
  const errors = layers.flatMap(({ layer, linearError }) =>
    linearError === undefined ? [] : [[layer, linearError] as const],
  );
  if (errors.length === 0) return undefined;
  const [worstLayer, worst] = errors.reduce((most, next) => (next[1] > most[1] ? next : most));
  return {
    mean: errors.reduce((sum, [, error]) => sum + error, 0) / errors.length,
    worst,
    worstLayer,
  };
}

const formatPercent = (share: number): string => `${(100 * share).toPrecision(2)} %`;

/** A method, and where it keeps what it has found. */
interface Prepared {
  readonly method: ConversionMethod;
  readonly work?: WorkFolder;
}

async function prepare(
  from: string,
  to: string,
  folder: Folder,
  options: ConvertCommandOptions,
  context: CommandContext,
): Promise<Prepared> {
  switch (options.method ?? "none") {
    case "none":
      return { method: { method: "none" } };
    case "factored":
      return { method: { method: "factored", init: options.init, target: options.target } };
    case "merged":
      return { method: { method: "merged", target: options.target } };
    case "latent":
      return latentConversion(from, to, folder, options, context);
  }
}

/** Runs a conversion; the layers that it has kept are removed unless it is cut off behind the first. */
async function keepingWork<T>(
  work: WorkFolder | undefined,
  report: CommandContext["report"],
  body: () => Promise<T>,
): Promise<T> {
  try {
    const result = await body();
    await work?.remove();
    return result;
  } catch (error) {
    if (work && work.layers === 0) await work.remove();
    if (work && work.layers > 0) {
      report.remark(`${work.layers} layers are kept; the same command goes on from there`);
    }
    throw error;
  }
}
