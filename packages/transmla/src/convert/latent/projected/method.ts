import { fail, UnsupportedError, type Backend } from "@transmla/core";

import { parseConfig } from "../../../model/config/families.ts";
import type { HuggingFaceConfig, ModelConfig } from "../../../model/config/model-config.ts";
import { selfAttention, type GroupedSource, type Method } from "../../method.ts";
import { requireWindows } from "../calibration-stream.ts";
import { keptLayer } from "../layer-store.ts";
import { calibrationRecord, layerReport, requireBackend, type Calibration } from "../method.ts";
import { layerRun } from "../refine/refined-run.ts";
import { SourceLayers } from "../source-layers.ts";
import { convertProjected } from "./convert-projected.ts";
import { projectedConfig, projectedTensors } from "./export.ts";
import { completeProjected, type ProjectedRecipe } from "./recipe.ts";

/**
 * The calibrated conversion to a smaller cache for the runtime of this library, as a method of the loop over layers.
 *
 * @param source - The model.
 * @param recipe - Sizes and ingredients.
 * @param calibration - Windows of token ids, and who is told of layers.
 * @param backend - Where the source runs over them.
 * @throws UnsupportedError when the format does not hold the model.
 * @throws ArgumentError when a size or a window does not fit the model.
 */
export function projectedMethod(
  source: GroupedSource,
  recipe: ProjectedRecipe,
  { calibration, about, onLayer, layers: store }: Calibration,
  backend: Backend | undefined,
): Method {
  const { json, config, attention, weights } = source;
  requireExpressible(source);
  const complete = completeProjected(recipe, config, attention);
  requireWindows(calibration, config);
  const pairs = complete.sizes.map(({ ropeDim }) => Array.from({ length: ropeDim / 2 }, () => 0));
  const layers = new SourceLayers(config, attention, weights);
  const record = calibrationRecord(calibration, about);
  let run: ReturnType<typeof layerRun> | undefined;
  const result = (): HuggingFaceConfig => projectedConfig(json, pairs, complete, record);
  const start = (): ReturnType<typeof layerRun> =>
    layerRun(
      config,
      layers,
      {
        backend: requireBackend(backend),
        windows: calibration,
        firstKey: complete.exactFirst ? 1 : 0,
        recipe: complete,
        result: () => parseConfig(result()),
        residual: 1,
        store,
      },
      async (visited) => {
        const { index } = visited;
        const converted = await convertProjected(visited, complete.sizes[index]!, complete);
        const { layer, errorBefore, error, latent } = converted;
        pairs[index] = [...layer.pairs];
        return {
          tensors: selfAttention(projectedTensors(layer, attention)),
          facts: { error, errorBefore, eigenvalues: [...latent.eigenvalues], pairs: layer.pairs },
        };
      },
    );
  return {
    get config() {
      return result(); // slots are chosen on the way
    },
    has: (name) => /\.kv_[ab]_proj\.bias$/.test(name) || weights.has(name),
    layer: async (index) => {
      const stored = await keptLayer(store, index, async () => {
        run ??= start();
        return run.convert(index);
      });
      pairs[index] = [...(stored.facts["pairs"] as readonly number[])];
      onLayer?.(layerReport(index, stored));
      return stored.tensors;
    },
    carried: (name) => ({ from: name, scale: 1 }),
    dispose: () => run?.[Symbol.dispose](),
  };
}

/** Features of a model that a calibration here does not run, in words that complete "for models with ...". */
const limits: readonly ((config: ModelConfig) => string | false | undefined)[] = [
  ({ experts }) => experts.some(Boolean) && "experts",
  ({ windows, contextLength }) =>
    windows.some((window) => window !== undefined && window < contextLength) && "sliding windows",
  ({ scoreCap }) => scoreCap !== undefined && "a soft cap of attention scores",
  ({ norms }) => norms.attentionOut && "norms behind the attention",
  ({ activation }) => activation !== "silu" && `${activation} activation`,
  ({ ropes, attention }) => {
    const [first] = ropes;
    if (!first || ropes.some((rope) => rope !== first))
      return "layers with other positions, or none";
    if (first.long ?? first.dynamic) return "frequencies that depend on the length of the sequence";
    if (first.tableScale !== 1) return "scaled rotation tables";
    return (
      attention.kind === "grouped" &&
      2 * first.frequencies.length < attention.headDim &&
      "keys that are rotated in part"
    );
  },
];

function requireExpressible({ config, weights }: GroupedSource): void {
  const bias = weights.names.find((name) => /\.mlp\..*\.bias$/.test(name));
  const missing =
    limits.map((limit) => limit(config)).find(Boolean) ?? (bias && `feed-forward biases (${bias})`);
  if (!missing) return;
  const problem = `latent for own is not made for models with ${missing}; use --method factored, or merged --target own`;
  fail(UnsupportedError, "convert", problem);
}
