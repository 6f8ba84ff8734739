import { basename } from "node:path";

import { compare, type Comparison } from "../../evaluate/evaluate.ts";
import { formatBytes } from "../../format-bytes.ts";
import { cacheBytes, type CacheDType } from "../../model/cache-size.ts";
import { cacheWidth } from "../../model/config/model-config.ts";
import type { Model } from "../../model/model.ts";
import { drawCharts, type Series } from "../../picture/chart.ts";
import { openModel, type CommandContext, type StorageOptions } from "../context.ts";
import { readWindows, type TextOptions } from "../inputs.ts";
import { formatCount } from "../report.ts";
import { writeText } from "../write-text.ts";

/** Options of `transmla compare`. */
export interface CompareOptions extends TextOptions, StorageOptions {
  readonly svg?: string;
}

/** A model beside the reference. */
interface Row extends Pick<Comparison, "meanKl" | "topAgreement"> {
  readonly model: string;
  readonly perplexity: number;
  readonly numbersPerTokenAndLayer: number;
  readonly bytesPerToken: number;
  /** What a sequence caches of its first position besides. */
  readonly bytesOnce: number;
}

/** Prints the quality and the cache of models beside those of a reference. */
export async function compareCommand(
  reference: string,
  others: readonly string[],
  options: CompareOptions,
  context: CommandContext,
): Promise<void> {
  const { report, signal } = context;
  using first = await openModel(reference, context);
  const { windows, from } = await readWindows(first, options);
  const rows: Row[] = [];
  // Two models at a time: the reference runs again for each, and memory does not grow with their number.
  for (const path of others) {
    using other = await openModel(path, context, options);
    const progress = report.progress(`comparing ${path}`);
    const [found] = await compare(first, [other], windows, {
      signal,
      cacheDType: options.kvDtype,
      onProgress: (done, total) => progress({ done, total, unit: "windows" }),
    });
    const [expected, perplexity] = found!.perplexity;
    if (rows.length === 0) {
      const exact = { meanKl: 0, topAgreement: 1 };
      rows.push({ model: reference, ...cacheOf(first, "f32"), perplexity: expected, ...exact });
    }
    const { meanKl, topAgreement } = found!;
    rows.push({
      model: path,
      ...cacheOf(other, options.kvDtype),
      perplexity,
      meanKl,
      topAgreement,
    });
  }
  report.remark(`${from}; KL and top-1 agreement are those with ${reference}`);
  report.table([
    ["model", "numbers per token and layer", "cache per token", "perplexity", "KL", "top-1"],
    ...rows.map((row) => [
      row.model,
      formatCount(row.numbersPerTokenAndLayer),
      formatBytes(row.bytesPerToken) +
        (row.bytesOnce > 0 ? ` + ${formatBytes(row.bytesOnce)} once` : ""),
      row.perplexity.toFixed(3),
      row.meanKl.toFixed(4),
      `${(100 * row.topAgreement).toFixed(2)} %`,
    ]),
  ]);
  report.remark(`Cached numbers are ${options.kvDtype}, those of the reference f32.`);
  if (options.svg !== undefined) await writeText(options.svg, drawRows(rows));
  report.result({ reference, text: from, models: rows });
}

function cacheOf(
  { config }: Model,
  dtype: CacheDType,
): Pick<Row, "numbersPerTokenAndLayer" | "bytesPerToken" | "bytesOnce"> {
  const one = cacheBytes(config, 1, dtype);
  const bytesPerToken = cacheBytes(config, 2, dtype) - one;
  return {
    numbersPerTokenAndLayer: cacheWidth(config.attention),
    bytesPerToken,
    bytesOnce: one - bytesPerToken,
  };
}

/** Divergence and perplexity of all models against their caches. */
function drawRows(rows: readonly Row[]): string {
  const series = (of: (row: Row) => number): Series[] =>
    rows.map((row) => ({
      name: basename(row.model),
      points: [[row.numbersPerTokenAndLayer, of(row)]],
    }));
  const x = "cached numbers per token and layer";
  return drawCharts([
    {
      title: "Divergence from the reference",
      x,
      y: "KL, nats per token",
      series: series((row) => Math.max(row.meanKl, 0)),
    },
    { title: "Perplexity", x, y: "perplexity", series: series((row) => row.perplexity) },
  ]);
}
