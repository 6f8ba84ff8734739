import { fail, UnsupportedError, type Backend } from "@transmla/core";

import { layerPrefix } from "../../../model/bind-weights.ts";
import type { ModelConfig } from "../../../model/config/model-config.ts";
import type { HostTensor } from "../../host-tensor.ts";
import type { GroupedSource, Method } from "../../method.ts";
import { requireWindows } from "../calibration-stream.ts";
import { LatentRun } from "../latent-run.ts";
import { keptLayer } from "../layer-store.ts";
import { calibrationRecord, layerReport, requireBackend, type Calibration } from "../method.ts";
import { SourceLayers } from "../source-layers.ts";
import { convertProjected, type ConvertedProjected } from "./convert-projected.ts";
import { projectedConfig, projectedTensors } from "./export.ts";
import { completeProjected, type ProjectedRecipe } from "./recipe.ts";

/** Attention tensors of the source that a projected layer has too. */
const KEPT = ["q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"];

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
  let run: LatentRun<ConvertedProjected> | undefined;
  return {
    get config() {
      return projectedConfig(json, pairs, complete, record); // slots are chosen on the way
    },
    has: (name) => /\.kv_[ab]_proj\.bias$/.test(name) || weights.has(name),
    attention: async (index) => {
      const stored = await keptLayer(store, index, async () => {
        const options = {
          backend: requireBackend(backend),
          windows: calibration,
          firstKey: complete.exactFirst ? (1 as const) : (0 as const),
        };
        run ??= new LatentRun(config, layers, options, async (layer) =>
          convertProjected(layer, complete.sizes[layer.index]!, complete),
        );
        const { layer, errorBefore, error, latent } = await run.convert(index);
        return {
          tensors: projectedTensors(layer, attention),
          facts: { error, errorBefore, eigenvalues: [...latent.eigenvalues], pairs: layer.pairs },
        };
      });
      pairs[index] = [...(stored.facts["pairs"] as readonly number[])];
      onLayer?.(layerReport(index, stored));
      return { ...(await keptTensors(source, index)), ...stored.tensors };
    },
    carried: (name) => ({ from: name, scale: 1 }),
    dispose: () => run?.[Symbol.dispose](),
  };
}

async function keptTensors(
  { weights }: GroupedSource,
  layer: number,
): Promise<Record<string, HostTensor>> {
  const prefix = `${layerPrefix(layer)}self_attn.`;
  const kept: Record<string, HostTensor> = {};
  for (const name of KEPT.flatMap((part) => [`${part}.weight`, `${part}.bias`])) {
    if (weights.has(prefix + name)) kept[name] = await weights.read(prefix + name);
  }
  return kept;
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
