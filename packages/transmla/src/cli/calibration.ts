import { basename } from "node:path";

import { ArgumentError, fail } from "@transmla/core";

import { readAssets } from "../assets.ts";
import type { Folder } from "../checkpoint/folder.ts";
import type { ConversionMethod } from "../convert/conversion.ts";
import {
  chooseLatentSizes,
  type ChooseLatentSizesOptions,
  type LatentSizes,
} from "../convert/latent/choose-sizes.ts";
import type { LayerStore } from "../convert/latent/layer-store.ts";
import {
  chooseLayerSizes,
  type LayerSizes,
} from "../convert/latent/projected/choose-layer-sizes.ts";
import { targetSizes, type CacheSizes, type Target } from "../convert/targets.ts";
import { readConfig } from "../load.ts";
import type { Model } from "../model/model.ts";
import { openModel, type CommandContext } from "./context.ts";
import { fileWindows, sampleIds } from "./inputs.ts";
import { formatSmall } from "./report.ts";
import { weightFiles, WorkFolder } from "./work-folder.ts";

/** Windows that are sampled from the model when no text is given, each from another seed. */
const SAMPLED_WINDOWS = 8;
const SAMPLED_TOKENS = 512;

/** The longest window that a text is cut into when the command does not say. */
const USUAL_WINDOW = 1024;

/** One window in so many is held out of the calibration to choose sizes by. */
const SELECTION_EVERY = 5;

type LatentConversion = Extract<ConversionMethod, { readonly method: "latent" }>;

/** Options of `--method latent`. */
export interface LatentOptions {
  readonly recipe?: "default" | "transmla";
  readonly fold?: number;
  readonly components?: number;
  readonly queryRank?: number;
  readonly refine?: boolean;
  readonly latentRank?: number;
  readonly ropeDim?: number;
  readonly cache?: number;
  readonly target?: Target;
  readonly calibration?: string;
  readonly window?: number;
  readonly maxWindows?: number;
}

/** A latent conversion, and where it keeps what it has found. */
export interface PreparedConversion {
  readonly method: LatentConversion;
  readonly work: WorkFolder;
}

/**
 * The latent conversion that options ask for: reads or samples the calibration windows, and chooses what the sizes leave
 * open. The model is loaded only where it must run. What has been chosen and converted is kept beside the output.
 */
export async function latentConversion(
  path: string,
  to: string,
  folder: Folder,
  options: LatentOptions,
  context: CommandContext,
): Promise<PreparedConversion> {
  const { recipe, fold, components, queryRank, target, cache, calibration: text } = options;
  if (fold !== undefined && (recipe !== "transmla" || cache !== undefined)) {
    fail(ArgumentError, "--fold", "belongs to --recipe transmla with --rope-dim and --latent-rank");
  }
  if (options.refine && recipe === "transmla") {
    fail(ArgumentError, "--refine", "belongs to the default recipe, not to --recipe transmla");
  }
  const refine = options.refine ? ("steps" as const) : undefined;
  const sizes = await givenSizes(folder, options);
  using loaded = text === undefined || !sizes ? await openModel(path, context) : undefined;
  const windows =
    text === undefined
      ? await sampleWindows(loaded!, options)
      : await readCalibration(folder, text, options);
  context.report.remark(describeWindows(windows, text ?? "text sampled from the model"));
  const { json, config } = await readConfig(folder);
  const ingredients = {
    method: "latent",
    recipe,
    fold,
    components,
    queryRank,
    refine,
    target,
  } as const;
  const split = sizes ? undefined : heldOutWindows(windows);
  const asked = { ...ingredients, cache, ...sizes };
  const files = await weightFiles(folder.path);
  const work = await WorkFolder.open(`${to}.partial`, { from: path, files, json, asked, windows });
  if (work.layers > 0) {
    context.report.remark(`${work.layers} of ${config.layers} layers were converted before`);
  }
  const chosen = await work.note("sizes", async () => {
    if (!split) return sizes!;
    const best: LatentSizes | LayerSizes =
      target === "own"
        ? await chooseForOwn(loaded!, cache!, split, context)
        : await chooseSizes(loaded!, { recipe, target, cache: cache! }, split, context);
    const { layers, meanKl: _, ...found } = best;
    const tried = "components" in found ? found.components : undefined;
    const asTried =
      queryRank === undefined && refine === undefined && (tried ?? components) === tried;
    if (asTried) await copyLayers(layers, work, config.layers);
    return found;
  });
  const about = {
    ...(text === undefined ? { seed: 0 } : { text: basename(text) }),
    ...(split && { selection_windows: split.selection.length }),
  };
  const calibration = split?.calibration ?? windows;
  // What was chosen fits the recipe that it was chosen for.
  const method = {
    ...ingredients,
    ...chosen,
    calibration,
    about,
    layers: work,
  } as LatentConversion;
  return { method, work };
}

/** The sizes that the options state or the target leaves no choice of; none where a cache is to be split. */
async function givenSizes(
  folder: Folder,
  { ropeDim, latentRank, cache, target }: LatentOptions,
): Promise<CacheSizes | undefined> {
  if (ropeDim !== undefined && latentRank !== undefined && cache === undefined) {
    return { ropeDim, latentRank };
  }
  if (ropeDim === undefined && latentRank === undefined) {
    const { attention } = (await readConfig(folder)).config;
    const preset =
      target && attention.kind === "grouped" ? targetSizes(target, attention, cache) : undefined;
    if (preset ?? cache !== undefined) return preset;
  }
  const problem = "latent needs either --cache, or both --rope-dim and --latent-rank";
  return fail(ArgumentError, "convert", problem);
}

/** The sizes of each layer for the runtime of this library. */
async function chooseForOwn(
  model: Model,
  cache: number,
  windows: SplitWindows,
  { report, signal }: CommandContext,
): Promise<LayerSizes> {
  const total = model.config.layers;
  const progress = report.progress("choosing sizes");
  let done = 0;
  const sizes = await chooseLayerSizes(model, {
    cache,
    ...windows,
    signal,
    onLayer: () => progress({ done: ++done, total, unit: "layers" }),
    onCandidate: ({ latentRank, meanKl }) => {
      const [least, most] = [Math.min(...latentRank), Math.max(...latentRank)];
      report.remark(
        `latents of ${least} to ${most}: KL ${formatSmall(meanKl)} on held-out windows`,
      );
    },
  });
  report.remark(`rotated keys of the layers: ${sizes.ropeDim.join(" ")}`);
  report.remark(`latents of the layers: ${sizes.latentRank.join(" ")}`);
  return sizes;
}

async function copyLayers(from: LayerStore, to: LayerStore, count: number): Promise<void> {
  for (let layer = 0; layer < count; layer++) {
    const kept = await from.read(layer);
    if (kept) await to.write(layer, kept);
  }
}

/** Windows to calibrate on, and windows that are held out to choose by. */
interface SplitWindows {
  readonly calibration: readonly (readonly number[])[];
  readonly selection: readonly (readonly number[])[];
}

function heldOutWindows(windows: readonly (readonly number[])[]): SplitWindows {
  const heldOut = (index: number): boolean => (index + 1) % SELECTION_EVERY === 0;
  const calibration = windows.filter((_, index) => !heldOut(index));
  const selection = windows.filter((_, index) => heldOut(index));
  if (selection.length === 0) {
    const problem = `--cache needs ${SELECTION_EVERY} windows or more to hold one out, found ${windows.length}; give a longer text or a smaller --window`;
    fail(ArgumentError, "convert", problem);
  }
  return { calibration, selection };
}

async function chooseSizes(
  model: Model,
  wanted: Pick<ChooseLatentSizesOptions, "recipe" | "target" | "cache">,
  windows: SplitWindows,
  { report, signal }: CommandContext,
): Promise<LatentSizes> {
  const [best] = await chooseLatentSizes(model, {
    ...wanted,
    ...windows,
    signal,
    onCandidate: ({ ropeDim, latentRank, fold, components, meanKl }) => {
      const folded =
        fold === undefined ? (components ? ` (${components} components)` : "") : `, fold ${fold}`;
      report.remark(
        `${ropeDim} + ${latentRank}${folded}: KL ${formatSmall(meanKl)} on held-out windows`,
      );
    },
  });
  return best;
}

async function readCalibration(
  folder: Folder,
  path: string,
  limits: LatentOptions,
): Promise<number[][]> {
  const { json, config } = await readConfig(folder);
  const { tokenizer } = await readAssets(folder, json);
  const longest = config.contextLength;
  const usual = Math.min(longest, USUAL_WINDOW);
  return fileWindows(path, tokenizer, { ...limits, usual, longest });
}

async function sampleWindows(
  model: Model,
  { window = SAMPLED_TOKENS, maxWindows = SAMPLED_WINDOWS }: LatentOptions,
): Promise<number[][]> {
  const length = Math.min(window, model.config.contextLength);
  const windows: number[][] = [];
  while (windows.length < maxWindows) windows.push(await sampleIds(model, length, windows.length));
  return windows;
}

function describeWindows(windows: readonly (readonly number[])[], from: string): string {
  const tokens = windows.reduce((sum, ids) => sum + ids.length, 0);
  return `calibrated on ${tokens} tokens of ${from} in ${windows.length} windows`;
}
