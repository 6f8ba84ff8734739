import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

/** A conversion that is measured. */
export interface Setting {
  readonly recipe: "transmla" | "default" | "refined" | "transformers" | "own" | "own-refined";
  /** Numbers per token and layer. */
  readonly cache: number;
  /** d_r; absent where it is another in each layer. */
  readonly ropeDim?: number;
  readonly fold?: number | undefined;
  /** Components of each frequency that keep their rotation, where they are several. */
  readonly components?: number | undefined;
  /** In an ablation: which ingredient is missing. */
  readonly without?: string;
}

/** What is measured on some windows. */
export interface Quality {
  readonly perplexity: number;
  /** Mean KL(original || converted), nats per token. */
  readonly kl: number;
  /** The share of positions at which both prefer the same token. */
  readonly top: number;
}

/** A setting and what is known of it. */
export interface Measurement {
  readonly setting: Setting;
  /** On the windows that settings are chosen by. */
  readonly selection?: Quality;
  /** On windows that nothing is chosen by. */
  readonly test?: Quality;
  /** Of the conversion. */
  readonly seconds?: number;
}

/** All that is known of a model. */
export interface Results {
  readonly model: string;
  /** Numbers per token and layer of the original. */
  readonly cache: number;
  readonly layers: number;
  /** Of the original, on the test windows. */
  readonly perplexity: number;
  /** In words: where the windows come from. */
  readonly texts: Readonly<Record<"calibration" | "selection" | "test", string>>;
  readonly measurements: readonly Measurement[];
}

/** Reads what has been measured, if anything. */
export function readResults(path: string): Results | undefined {
  return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Results) : undefined;
}

/** Stores results in a file that is complete at any time. */
export function writeResults(path: string, results: Results): void {
  writeWhole(path, `${JSON.stringify(results, null, 2)}\n`);
}

/** Writes a file that is complete at any time. */
export function writeWhole(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.partial`, text);
  renameSync(`${path}.partial`, path);
}

/** Whether two settings are the same. */
export function sameSetting(a: Setting, b: Setting): boolean {
  const fields = ["recipe", "cache", "ropeDim", "fold", "components", "without"] as const;
  return fields.every((field) => a[field] === b[field]);
}

/** The measurement of a setting. */
export function find(
  { measurements }: Pick<Results, "measurements">,
  setting: Setting,
): Measurement | undefined {
  return measurements.find((known) => sameSetting(known.setting, setting));
}

/** The results with more known of a setting. */
export function withMeasurement(results: Results, more: Measurement): Results {
  const known = find(results, more.setting);
  const others = results.measurements.filter((measurement) => measurement !== known);
  return { ...results, measurements: [...others, { ...known, ...more }] };
}

/**
 * Of all settings of a recipe at a cache the one that is best on the selection windows; where there was no choice, the
 * only one that was tested.
 */
export function best(
  { measurements }: Pick<Results, "measurements">,
  recipe: Setting["recipe"],
  cache: number,
): Measurement | undefined {
  const known = measurements.filter(
    ({ setting }) => setting.recipe === recipe && setting.cache === cache && !setting.without,
  );
  const [chosen] = known
    .filter(({ selection }) => selection)
    .toSorted((a, b) => a.selection!.kl - b.selection!.kl);
  return chosen ?? known.find(({ test }) => test);
}
