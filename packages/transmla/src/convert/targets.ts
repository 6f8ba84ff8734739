import { fail, UnsupportedError } from "@transmla/core";

import type { GroupedAttention, HuggingFaceConfig } from "../model/config/model-config.ts";

// What runtimes can hold, checked on the configuration of a result. Stock runtimes read DeepSeek-V3.

/** The runtimes that results are written for; `own` is this library, with a format of its own. */
export const targets = ["transformers", "vllm", "llama.cpp", "own"] as const;

/** A runtime that results are written for. */
export type Target = (typeof targets)[number];

/** Widths of the rotated key and of the latent. */
export interface CacheSizes {
  /** d_r: the width of the shared rotated key. */
  readonly ropeDim: number;
  /** r: the width of the latent. */
  readonly latentRank: number;
}

/** The limits of a runtime. */
interface Rules {
  /** The `model_type` that it is written in. */
  readonly model: "deepseek_v3" | "transmla";
  /** What `rope_type` may be. Others are read as one of these or not at all. */
  readonly ropeTypes?: readonly string[];
  /** Whether the projections that have a bias with `attention_bias` have one. Others drop it in silence. */
  readonly biases: boolean;
  /** The sizes that attention kernels exist for, largest first; any when absent. */
  readonly sizes?: readonly CacheSizes[];
}

const rules: Readonly<Record<Target, Rules>> = {
  transformers: { model: "deepseek_v3", biases: true },
  vllm: {
    model: "deepseek_v3",
    ropeTypes: ["default"],
    biases: false,
    sizes: [
      { ropeDim: 64, latentRank: 512 },
      { ropeDim: 64, latentRank: 256 },
    ],
  },
  "llama.cpp": { model: "deepseek_v3", ropeTypes: ["default", "yarn"], biases: false },
  own: { model: "transmla", biases: true },
};

/**
 * Throws unless a runtime holds a result.
 *
 * @param target - The runtime.
 * @param config - The `config.json` of the result.
 * @throws UnsupportedError that says what the runtime lacks, and what to do instead.
 */
export function requireTarget(target: Target, config: HuggingFaceConfig): void {
  const refuse = (problem: string, instead: string): never =>
    fail(UnsupportedError, "convert", `${target} ${problem}; use ${instead}`);
  const { model, ropeTypes, biases, sizes } = rules[target];
  if (config["model_type"] !== model) {
    const [written, instead] =
      model === "deepseek_v3"
        ? ["DeepSeek-V3", "--method merged or latent"]
        : ["the format of this library", "--method merged or factored"];
    refuse(`reads ${written}, which this method does not write`, instead);
  }
  const type = ropeType(config);
  if (ropeTypes && !ropeTypes.includes(type)) {
    const problem = `does not honour rope_type "${type}" in DeepSeek-V3`;
    refuse(problem, "--target transformers, or --method latent on a model with default RoPE");
  }
  if (!biases && config["attention_bias"] === true) {
    refuse("drops the biases of attention in DeepSeek-V3", "--target transformers");
  }
  const [ropeDim, rank] = [config["qk_rope_head_dim"], config["kv_lora_rank"]];
  if (sizes && !sizes.some((held) => held.ropeDim === ropeDim && held.latentRank === rank)) {
    const known = sizes.map((held) => `${held.latentRank} + ${held.ropeDim}`).join(" or ");
    const problem = `has attention kernels for a latent and a rotated key of ${known}, not of ${String(rank)} + ${String(ropeDim)}`;
    refuse(problem, `--cache ${sizes.map(cacheOf).join(" or ")}, or --target transformers`);
  }
}

/**
 * The sizes that a runtime leaves no choice of.
 *
 * @param target - The runtime.
 * @param attention - Of the source.
 * @param cache - Numbers per token and layer; the largest that is smaller than the source's when absent.
 * @returns Nothing when the runtime takes all sizes.
 * @throws UnsupportedError when none of its sizes has this cache and fits the source.
 */
export function targetSizes(
  target: Target,
  { kvHeads, headDim }: GroupedAttention,
  cache: number | undefined,
): CacheSizes | undefined {
  const { sizes } = rules[target];
  if (!sizes) return undefined;
  const now = 2 * kvHeads * headDim;
  const fitting = sizes.filter((held) => held.ropeDim <= headDim && cacheOf(held) < now);
  const found = fitting.find((held) => cache === undefined || cacheOf(held) === cache);
  if (found) return found;
  const known = sizes.map((held) => `${cacheOf(held)} (${held.latentRank} + ${held.ropeDim})`);
  const problem =
    `${target} holds caches of ${known.join(" and ")} numbers per token and layer` +
    (fitting.length === 0
      ? `, which heads of ${headDim} and a cache of ${now} have no room for`
      : `, of which this model has room for ${fitting.map(cacheOf).join(" and ")}`);
  return fail(UnsupportedError, "convert", `${problem}; use --target transformers`);
}

const cacheOf = ({ ropeDim, latentRank }: CacheSizes): number => ropeDim + latentRank;

function ropeType(config: HuggingFaceConfig): string {
  const scaling = config["rope_parameters"] as { readonly rope_type?: unknown } | undefined;
  return typeof scaling?.rope_type === "string" ? scaling.rope_type : "default";
}
