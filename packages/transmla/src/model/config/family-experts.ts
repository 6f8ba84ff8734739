import type { Fields } from "./fields.ts";
import type { ExpertNames, ExpertsConfig } from "./model-config.ts";

// The experts of each family that has them, read from `config.json`.

const names: ExpertNames = { prefix: "mlp", gate: "gate_proj", up: "up_proj", down: "down_proj" };

/**
 * Throws unless each token can have its experts from the groups that are kept.
 *
 * @param fields - The configuration.
 * @param experts - What was read from it.
 */
export function checkExperts(fields: Fields, experts: ExpertsConfig): void {
  const { count, perToken, groups } = experts;
  if (groups && count % groups.count !== 0) {
    fields.refuse("n_group", `must divide the number of experts, ${count}`);
  }
  if (groups && groups.kept > groups.count) {
    fields.refuse("topk_group", `is more than the number of groups, ${groups.count}`);
  }
  const inGroup = groups ? count / groups.count : count;
  if (groups && groups.ranked > inGroup) {
    fields.refuse("n_group", `leaves ${inGroup} experts in a group; ${groups.ranked} rank it`);
  }
  const eligible = inGroup * (groups?.kept ?? 1);
  if (perToken > eligible) {
    fields.refuse("num_experts_per_tok", `is more than the ${eligible} experts to choose from`);
  }
}

/**
 * Mixtral: every layer, softmax over the chosen experts.
 *
 * @param fields - The configuration.
 */
export function mixtralExperts(fields: Fields): ExpertsConfig {
  return {
    count: fields.size("num_local_experts", 8),
    perToken: fields.size("num_experts_per_tok", 2),
    width: fields.size("intermediate_size"),
    scoring: "softmax",
    normalised: true,
    scale: 1,
    groups: undefined,
    sharedWidth: 0,
    names: { prefix: "block_sparse_moe", gate: "w1", up: "w3", down: "w2" },
  };
}

/**
 * Qwen3-MoE: every `decoder_sparse_step`-th layer but those of `mlp_only_layers`.
 *
 * @param fields - The configuration.
 * @param layer - Which layer.
 */
export function qwen3Experts(fields: Fields, layer: number): ExpertsConfig | undefined {
  const dense = fields.countsOfLayers("mlp_only_layers")?.includes(layer) ?? false;
  if (dense || (layer + 1) % fields.size("decoder_sparse_step", 1) !== 0) return undefined;
  return {
    count: fields.size(fields.has("num_local_experts") ? "num_local_experts" : "num_experts", 128),
    perToken: fields.size("num_experts_per_tok", 8),
    width: fields.size("moe_intermediate_size"),
    scoring: "softmax",
    normalised: fields.flag("norm_topk_prob", false),
    scale: 1,
    groups: undefined,
    sharedWidth: 0,
    names,
  };
}

/** What the two DeepSeek families share; layers below `first_k_dense_replace` are dense. */
function deepseekExperts(
  fields: Fields,
  layer: number,
  denseLayers: number,
): Omit<ExpertsConfig, "scoring" | "normalised" | "scale" | "groups"> | undefined {
  if (layer < fields.count("first_k_dense_replace", denseLayers)) return undefined;
  if (fields.count("moe_layer_freq", 1) !== 1)
    fields.refuse("moe_layer_freq", "is not supported; it must be 1");
  const width = fields.size("moe_intermediate_size");
  return {
    count: fields.size("n_routed_experts"),
    perToken: fields.size("num_experts_per_tok"),
    width,
    sharedWidth: width * fields.count("n_shared_experts", 0),
    names,
  };
}

/**
 * DeepSeek-V2: softmax scores that are never renormalised, greedily or from the groups with the best expert.
 *
 * @param fields - The configuration.
 * @param layer - Which layer.
 */
export function deepseekV2Experts(fields: Fields, layer: number): ExpertsConfig | undefined {
  const shared = deepseekExperts(fields, layer, 0);
  if (!shared) return undefined;
  const method = fields.text("topk_method", "greedy");
  if (method !== "greedy" && method !== "group_limited_greedy") {
    fields.refuse("topk_method", "is not supported; known: greedy, group_limited_greedy");
  }
  const groups = {
    count: fields.size("n_group", 1),
    kept: fields.size("topk_group", 1),
    ranked: 1,
  } as const;
  return {
    ...shared,
    scoring: "softmax",
    normalised: false,
    scale: fields.positive("routed_scaling_factor", 1),
    groups: method === "greedy" ? undefined : groups,
  };
}

/**
 * DeepSeek-V3: sigmoid scores, chosen with a correction bias from the groups with the best two experts.
 *
 * @param fields - The configuration.
 * @param layer - Which layer.
 */
export function deepseekV3Experts(fields: Fields, layer: number): ExpertsConfig | undefined {
  const shared = deepseekExperts(fields, layer, 3);
  if (!shared) return undefined;
  return {
    ...shared,
    scoring: "sigmoid",
    normalised: fields.flag("norm_topk_prob", true),
    scale: fields.positive("routed_scaling_factor", 2.5),
    groups: { count: fields.size("n_group", 8), kept: fields.size("topk_group", 4), ranked: 2 },
  };
}
