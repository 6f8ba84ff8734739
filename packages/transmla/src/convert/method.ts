import type {
  GroupedAttention,
  HuggingFaceConfig,
  ModelConfig,
} from "../model/config/model-config.ts";
import type { HostTensor } from "./host-tensor.ts";

/** Named weights that are read one at a time, in f64. */
export interface WeightReader {
  /** All names. */
  readonly names: readonly string[];
  /** Whether a weight exists. */
  has(name: string): boolean;
  /** One weight, widened exactly. */
  read(name: string): Promise<HostTensor>;
  /** The same a piece at a time, in order; the caller owns each piece. */
  pieces(name: string): AsyncIterable<Float64Array>;
}

/** A model with grouped attention. */
export interface GroupedSource {
  readonly json: HuggingFaceConfig;
  readonly config: ModelConfig;
  readonly attention: GroupedAttention;
  readonly weights: WeightReader;
}

/** One conversion method, seen from the loop over layers. */
export interface Method {
  readonly config: HuggingFaceConfig;
  /** Whether the result has an optional tensor: a bias or an output matrix. */
  has(name: string): boolean;
  /** The tensors of a layer that are computed, by their names below that of the layer. Layers come in order, once each. */
  layer(index: number): Promise<Readonly<Record<string, HostTensor>>>;
  /** Where another tensor comes from, and its factor. */
  carried(name: string): { readonly from: string; readonly scale: number };
  /** Frees what it holds between layers. */
  dispose?(): void;
}

/**
 * Attention tensors by their names below that of their layer.
 *
 * @param tensors - By their names below `self_attn.`.
 */
export function selfAttention(
  tensors: Readonly<Record<string, HostTensor>>,
): Record<string, HostTensor> {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => [`self_attn.${name}`, tensor]),
  );
}

/**
 * Where the other tensors of a model come from whose residual stream is multiplied by a factor, and which has an output
 * matrix of its own.
 *
 * @param source - The model.
 * @param residual - The factor.
 */
export function carriedUnder(
  { config, weights }: GroupedSource,
  residual: number,
): Method["carried"] {
  const inResidual = /^model\.embed_tokens\.weight$|\.down_proj\.weight$/;
  const tied = config.tiedEmbeddings || !weights.has("lm_head.weight");
  return (name) => {
    if (name === "lm_head.weight" && tied) return { from: "model.embed_tokens.weight", scale: 1 };
    return { from: name, scale: inResidual.test(name) ? residual : 1 };
  };
}
