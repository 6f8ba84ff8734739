import type { Folder } from "../../checkpoint/folder.ts";
import { openCheckpoint } from "../../checkpoint/shards.ts";
import { planConversion, planTensors, type ConversionMethod } from "../../convert/conversion.ts";
import { formatBytes } from "../../format-bytes.ts";
import { asFolder, readConfig } from "../../load.ts";
import { cacheBytes, type CacheDType } from "../../model/cache-size.ts";
import { parseConfig } from "../../model/config/families.ts";
import type { HuggingFaceConfig, ModelConfig } from "../../model/config/model-config.ts";
import { cacheWidth } from "../../model/config/model-config.ts";
import { describeAttention, describeModel } from "../describe.ts";
import { formatCount, type Report } from "../report.ts";

/** Options of `transmla info`. */
export interface InfoOptions {
  readonly context?: number;
  readonly kvDtype: CacheDType;
}

/** Prints what a model is, and the cache of the original and of each conversion. A `config.json` alone is enough. */
export async function info(
  path: string,
  options: InfoOptions,
  { report, signal }: { readonly report: Report; readonly signal: AbortSignal },
): Promise<void> {
  const folder = await asFolder(
    path.endsWith("config.json") ? path.slice(0, -"config.json".length) || "." : path,
    { weights: false, signal, onDownload: report.progress(`downloading ${path}`) },
  );
  const { json, config } = await readConfig(folder);
  const { shapes, counted } = await readShapes(folder, config);
  const parameters = [...shapes.values()].reduce(
    (sum, shape) => sum + shape.reduce((a, b) => a * b, 1),
    0,
  );
  const context = options.context ?? config.contextLength;
  const forms = conversions(json, config, shapes).map(({ name, config: converted, reason }) => ({
    form: name,
    ...(converted
      ? {
          numbersPerTokenAndLayer: cacheWidth(converted.attention),
          bytesPerToken: cacheBytes(converted, 1, options.kvDtype),
          bytesPerContext: cacheBytes(converted, context, options.kvDtype),
        }
      : { reason }),
  }));
  report.line(describeModel(config, parameters));
  report.line(describeAttention(config.attention));
  if (!counted)
    report.remark("Parameters are counted from config.json: biases, if any, are left out.");
  report.line();
  report.table([
    ["form", "numbers per token and layer", "per token", `per ${formatCount(context)} tokens`],
    ...forms.map((form) =>
      "reason" in form
        ? [form.form, "", "", ""]
        : [
            form.form,
            formatCount(form.numbersPerTokenAndLayer),
            formatBytes(form.bytesPerToken),
            formatBytes(form.bytesPerContext),
          ],
    ),
  ]);
  for (const form of forms) if ("reason" in form) report.remark(`${form.form}: ${form.reason}`);
  report.remark(`Cached numbers are ${options.kvDtype}.`);
  report.result({ path, parameters, config, cacheDtype: options.kvDtype, context, forms });
}

interface Form {
  readonly name: string;
  readonly config?: ModelConfig;
  readonly reason?: string;
}

function notRead(): never {
  throw new TypeError("info: weights are not read");
}

/** The original and what each method would make of it. */
function conversions(
  json: HuggingFaceConfig,
  config: ModelConfig,
  shapes: ReadonlyMap<string, readonly number[]>,
): Form[] {
  const original = { name: "original", config };
  if (config.attention.kind !== "grouped") return [original];
  const weights = {
    names: [...shapes.keys()],
    has: (name: string): boolean => shapes.has(name),
    read: notRead,
    pieces: notRead,
  };
  const methods: ConversionMethod[] = [{ method: "factored" }, { method: "merged" }];
  const converted = methods.map((method): Form => {
    try {
      return {
        name: method.method,
        config: parseConfig(planConversion(json, weights, method).config),
      };
    } catch (error) {
      return {
        name: method.method,
        reason: error instanceof Error ? error.message : String(error),
      };
    }
  });
  return [original, ...converted];
}

/** Names and shapes of the weights: from the checkpoint, or from the configuration where there is none. */
async function readShapes(
  folder: Folder,
  config: ModelConfig,
): Promise<{ shapes: ReadonlyMap<string, readonly number[]>; counted: boolean }> {
  const stored =
    folder.openTensors !== undefined ||
    (await folder.exists("model.safetensors")) ||
    (await folder.exists("model.safetensors.index.json"));
  if (!stored) {
    const plan = planTensors(config, (name) => name === "lm_head.weight" && !config.tiedEmbeddings);
    return { shapes: new Map(plan.map(({ name, shape }) => [name, shape])), counted: false };
  }
  const source = await openCheckpoint(folder);
  try {
    return {
      shapes: new Map([...source.tensors].map(([name, { shape }]) => [name, shape])),
      counted: true,
    };
  } finally {
    await source.close();
  }
}
