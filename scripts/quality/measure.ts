import {
  chooseLayerSizes,
  compare,
  convert,
  latentSplits,
  type ConversionMethod,
  type Model,
} from "transmla";

import {
  best,
  find,
  readResults,
  sameSetting,
  withMeasurement,
  writeResults,
  type Measurement,
  type Quality,
  type Results,
  type Setting,
} from "./results.ts";
import type { Texts } from "./texts.ts";

/** Measures conversions of a model; what has been measured before is read from a file. */
export class Measuring {
  readonly #model: Model;
  readonly #texts: Texts;
  readonly #path: string;
  /** The model of the last conversion. */
  #held: { readonly setting: Setting; readonly model: Model } | undefined;

  constructor(model: Model, texts: Texts, path: string) {
    this.#model = model;
    this.#texts = texts;
    this.#path = path;
  }

  /** Tries the settings of a recipe on the selection windows and measures the best on the test windows. */
  async row(
    recipe: Setting["recipe"],
    cache: number,
    allowed: (setting: Setting) => boolean,
  ): Promise<void> {
    const settings = candidates(this.#model, recipe, cache).filter(allowed);
    if (settings.length === 1) return this.#measure(settings[0]!, "test");
    for (const setting of settings) await this.#measure(setting, "selection");
    const chosen = best(this.#results(), recipe, cache);
    if (chosen) await this.#measure(chosen.setting, "test");
  }

  /** Measures the default recipe without one of its ingredients. */
  async ablation(cache: number): Promise<void> {
    const full = best(this.#results(), "default", cache)?.setting;
    if (!full) return;
    for (const without of Object.keys(ingredients)) {
      await this.#measure({ ...full, without }, "test");
    }
  }

  #results(): Results {
    return readResults(this.#path)!;
  }

  async #measure(setting: Setting, on: "selection" | "test"): Promise<void> {
    if (find(this.#results(), setting)?.[on]) return;
    let seconds: number | undefined;
    if (!this.#held || !sameSetting(this.#held.setting, setting)) {
      this[Symbol.dispose]();
      const start = performance.now();
      const method = await methodOf(this.#model, setting, this.#texts);
      const model = await convert(this.#model, method);
      seconds = Math.round((performance.now() - start) / 1000);
      this.#held = { setting, model };
    }
    const [found] = await compare(this.#model, [this.#held.model], this.#texts[on]);
    const quality: Quality = {
      perplexity: found!.perplexity[1],
      kl: found!.meanKl,
      top: found!.topAgreement,
    };
    const measurement: Measurement = {
      setting,
      [on]: quality,
      ...(seconds !== undefined && { seconds }),
    };
    writeResults(this.#path, withMeasurement(this.#results(), measurement));
    process.stderr.write(`${JSON.stringify({ ...setting, on, ...quality, seconds })}\n`);
  }

  /** Frees the model that is held. */
  [Symbol.dispose](): void {
    this.#held?.model[Symbol.dispose]();
    this.#held = undefined;
  }
}

/** What a recipe is tried with at a cache. */
function candidates(model: Model, recipe: Setting["recipe"], cache: number): Setting[] {
  if (recipe === "own" || recipe === "own-refined") return [{ recipe, cache }];
  const splits =
    recipe === "transmla"
      ? latentSplits(model, cache, recipe)
      : latentSplits(model, cache, "default", recipe === "transformers" ? recipe : undefined);
  return splits
    .map(({ ropeDim, fold, components }) => ({ recipe, cache, ropeDim, fold, components }))
    .filter(({ components }) => recipe !== "transformers" || components !== undefined);
}

/** What makes the default recipe do without an ingredient. */
const ingredients = {
  "fitted mean phase": { phase: "none" },
  "attention-received covariance": { receivedShare: 0 },
  "refit of the logits": { logitRefit: false },
  "refit of o_proj": { outputRidge: "none" },
  "whitened coordinates": { whiten: false },
  "complex components (real ones instead)": { field: "real" },
  "units of logits and outputs": { metric: "none" },
} as const;

async function methodOf(
  model: Model,
  { recipe, cache, ropeDim, fold, components, without }: Setting,
  { calibration, selection }: Texts,
): Promise<ConversionMethod> {
  const refine = recipe.endsWith("refined") ? "steps" : "none";
  if (recipe === "own" || recipe === "own-refined") {
    const { layers, ...sizes } = await chooseLayerSizes(model, { cache, calibration, selection });
    const converted = refine === "none" ? layers : undefined;
    return {
      method: "latent",
      target: "own",
      ...sizes,
      refine,
      layers: converted,
      calibration,
    };
  }
  const sizes = { ropeDim: ropeDim!, latentRank: cache - ropeDim! };
  if (recipe === "transmla") return { method: "latent", recipe, ...sizes, fold, calibration };
  const changed = without === undefined ? {} : ingredients[without as keyof typeof ingredients];
  return { method: "latent", ...sizes, components, refine, ...changed, calibration };
}
