import type { GroupedAttention, HuggingFaceConfig } from "../../../model/config/model-config.ts";
import { fromMatrix, type HostTensor } from "../../host-tensor.ts";
import { ownConfig } from "../../own-format.ts";
import { storedMaps, type ProjectedMatrices } from "./projected-layer.ts";
import type { CompleteProjected } from "./recipe.ts";

/**
 * The tensors of a layer that its source does not have, and its output matrix, by their names below `self_attn.`.
 *
 * @param layer - The layer.
 * @param c - The attention of the source.
 */
export function projectedTensors(
  layer: ProjectedMatrices,
  c: GroupedAttention,
): Record<string, HostTensor> {
  const { up, upBias, queryUp } = storedMaps(layer, c);
  const vector = (data: Float64Array): HostTensor => ({ shape: [data.length], data });
  return {
    "o_proj.weight": fromMatrix(layer.output),
    "kv_a_proj.weight": fromMatrix(layer.down),
    "kv_a_proj.bias": vector(layer.downBias),
    "kv_b_proj.weight": fromMatrix(up),
    "kv_b_proj.bias": vector(upBias),
    "q_b_proj.weight": fromMatrix(queryUp),
  };
}

/**
 * The configuration of a projected model, in the format of this library.
 *
 * @param json - The configuration of the source.
 * @param pairs - The RoPE pairs of the slots of each layer.
 * @param recipe - The sizes, and ingredients for the record.
 * @param calibration - What is recorded of it.
 */
export function projectedConfig(
  json: HuggingFaceConfig,
  pairs: readonly (readonly number[])[],
  recipe: CompleteProjected,
  calibration: HuggingFaceConfig,
): HuggingFaceConfig {
  const { sizes, exactFirst } = recipe;
  return ownConfig(json, {
    method: "latent",
    exact_first: exactFirst,
    layers: sizes.map(({ latentRank }, layer) => ({
      latent_rank: latentRank,
      rope_pairs: pairs[layer]!,
    })),
    conversion: {
      phase: recipe.phase,
      positions: recipe.positions,
      slots: recipe.slots,
      logit_refit: recipe.logitRefit,
      received_share: recipe.receivedShare,
      whiten: recipe.whiten,
      output_ridge: recipe.outputRidge,
      refine: recipe.refine,
      ...calibration,
    },
  });
}
