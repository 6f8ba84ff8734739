import { drawCharts, type Chart } from "transmla";

import { best, type Measurement, type Quality, type Results, type Setting } from "./results.ts";

/** The recipes in the order of the tables, and their names. */
const recipes: readonly (readonly [Setting["recipe"], string])[] = [
  ["transmla", "published"],
  ["default", "default"],
  ["refined", "default, --refine"],
  ["transformers", "Transformers only"],
  ["own", "own format"],
  ["own-refined", "own format, --refine"],
];

/** Rows of cells, the first being the header. */
export type Table = readonly (readonly string[])[];

const measured = (results: Results, recipe: Setting["recipe"]): Measurement[] => {
  const caches = [...new Set(results.measurements.map(({ setting }) => setting.cache))];
  return caches
    .toSorted((a, b) => b - a)
    .map((cache) => best(results, recipe, cache))
    .filter((found) => found?.test !== undefined) as Measurement[];
};

const percent = (share: number, digits: number): string => `${(100 * share).toFixed(digits)} %`;
const numbers = ({ perplexity, kl, top }: Quality): string[] => [
  perplexity.toFixed(2),
  kl.toFixed(4),
  percent(top, 1),
];

function settings({ setting }: Measurement): string {
  const { cache, ropeDim, fold, components } = setting;
  if (ropeDim === undefined) return "per layer";
  const several = components === undefined ? "" : `, ${components} components`;
  const folded = fold === undefined ? several : `, fold ${fold}`;
  return `${ropeDim} + ${cache - ropeDim}${folded}`;
}

/** Quality of all recipes at all caches. */
export function qualityTable(results: Results): Table {
  const rows = recipes.flatMap(([recipe, name]) =>
    measured(results, recipe).map((measurement) => ({ name, measurement })),
  );
  const ordered = rows.toSorted(
    (a, b) => b.measurement.setting.cache - a.measurement.setting.cache,
  );
  return [
    ["cache", "recipe", "d_r + r", "perplexity", "KL", "top-1"],
    [`${results.cache} (100 %)`, "original", "", results.perplexity.toFixed(2), "0", "100.0 %"],
    ...ordered.map(({ name, measurement }) => {
      const { cache } = measurement.setting;
      return [
        `${cache} (${percent(cache / results.cache, 0)})`,
        name,
        settings(measurement),
        ...numbers(measurement.test!),
      ];
    }),
  ];
}

/** The default recipe without each of its ingredients. */
export function ablationTable(results: Results): Table | undefined {
  const rows = results.measurements.filter(({ setting, test }) => setting.without && test);
  if (rows.length === 0) return undefined;
  const full = best(results, "default", rows[0]!.setting.cache)!;
  const sorted = rows.toSorted((a, b) => b.test!.kl - a.test!.kl);
  return [
    ["default recipe", "perplexity", "KL", "top-1"],
    [`all of it, ${settings(full)}`, ...numbers(full.test!)],
    ...sorted.map(({ setting, test }) => [`without ${setting.without!}`, ...numbers(test!)]),
  ];
}

/** Divergence and perplexity against the cache, a line for each recipe. */
export function qualityPicture(results: Results): string {
  const series = (of: (quality: Quality) => number): Chart["series"] =>
    recipes
      .map(([recipe, name]) => ({
        name,
        points: measured(results, recipe)
          .toReversed()
          .map(({ setting, test }) => [setting.cache, of(test!)] as const),
      }))
      .filter(({ points }) => points.length > 0);
  const x = `cached numbers per token and layer (original: ${results.cache})`;
  const all = series(({ perplexity }) => perplexity);
  const last = Math.max(...all.flatMap(({ points }) => points.map(([cache]) => cache)));
  const original = {
    name: "original",
    plain: true,
    points: [
      [0, results.perplexity],
      [last, results.perplexity],
    ] as const,
  };
  return drawCharts([
    {
      title: `${results.model}: divergence`,
      x,
      y: "KL, nats per token",
      logarithmic: true,
      series: series(({ kl }) => kl),
    },
    {
      title: `${results.model}: perplexity`,
      x,
      y: "perplexity",
      logarithmic: true,
      series: [...all, original],
    },
  ]);
}

/** A table in Markdown, its columns aligned as the formatter has them. */
export function markdown(table: Table): string {
  const [header, ...rows] = aligned(table);
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const rule = header!.map((cell) => "-".repeat(cell.length));
  return [header!, rule, ...rows].map(line).join("\n");
}

/** The cells of a table, padded to the widths of their columns. */
export function aligned(table: Table): string[][] {
  const widths = table[0]!.map((_, i) => Math.max(...table.map((row) => row[i]!.length)));
  return table.map((row) => row.map((cell, i) => cell.padEnd(widths[i]!)));
}

/** The section of a model in `docs/quality.md`. */
export function section(results: Results, picture: string): string {
  const { calibration, selection, test } = results.texts;
  const ablation = ablationTable(results);
  return [
    `## ${results.model}`,
    `${results.layers} layers; the original caches ${results.cache} numbers per token and layer. Calibration: ${calibration}. Settings are chosen by KL on: ${selection}. Figures are of: ${test}.`,
    markdown(qualityTable(results)),
    `![Divergence and perplexity against the cache](${picture})`,
    ...(ablation
      ? ["Without one ingredient at a time, on the same windows:", markdown(ablation)]
      : []),
  ].join("\n\n");
}
