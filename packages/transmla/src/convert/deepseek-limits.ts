import type { ModelConfig } from "../model/config/model-config.ts";

/** What keeps a model from being written exactly as DeepSeek-V3, in words that complete "which has no ...". */
type Limit = (source: ModelConfig, names: readonly string[]) => string | false | undefined;

/**
 * Whether a weight is that of a norm of queries or keys.
 *
 * @param name - Its name.
 */
export function isHeadNorm(name: string): boolean {
  return /\.self_attn\.[qk]_norm\.weight$/.test(name);
}

const limits: readonly Limit[] = [
  ({ windows, contextLength }) => {
    const window = windows.find(
      (positions) => positions !== undefined && positions < contextLength,
    );
    return (
      window !== undefined &&
      `sliding window (sliding_window = ${window}, max_position_embeddings = ${contextLength})`
    );
  },
  (_, names) => {
    const bias = names.find((name) => /\.mlp\..*\.bias$/.test(name));
    return bias && `feed-forward bias (${bias})`;
  },
  (_, names) => {
    const norm = names.find(isHeadNorm);
    return norm && `norm of queries and keys (${norm})`;
  },
  ({ scoreCap }) =>
    scoreCap !== undefined && `soft cap of attention scores (attn_logit_softcapping = ${scoreCap})`,
  ({ logitCap }) =>
    logitCap !== undefined && `soft cap of logits (final_logit_softcapping = ${logitCap})`,
  ({ norms }) => norms.attentionOut && `norm behind the attention (${norms.attentionOut})`,
  ({ activation }) => activation !== "silu" && `${activation} activation`,
  ({ experts, family }) => experts.some(Boolean) && `experts that are routed as in ${family}`,
  ({ ropes }) => {
    const used = new Set(ropes.filter((rope) => rope !== undefined));
    const [rope] = used;
    if (!rope) return "model without positions";
    if (used.size > 1) return "layers with other positions";
    return rope.dynamic && "frequencies that grow with the length of the sequence";
  },
];

/**
 * What keeps a model from having one rotated key that is narrower than a head, in words that complete "which has no ...".
 *
 * @param source - The model.
 */
export function narrowRopeLimit({ ropes, attention }: ModelConfig): string | undefined {
  const [first] = ropes;
  if (ropes.some((rope) => rope === undefined)) return "layers without positions here";
  if (first!.long) return "second list of frequencies here";
  const partial = attention.kind === "grouped" && 2 * first!.frequencies.length < attention.headDim;
  return partial ? "keys that are rotated in part here" : undefined;
}

/**
 * Why a model cannot be written exactly as DeepSeek-V3 with merged heads.
 *
 * @param source - The model.
 * @param names - The names of its weights.
 * @returns The feature that DeepSeek-V3 lacks, or `undefined`.
 */
export function deepseekLimit(source: ModelConfig, names: readonly string[]): string | undefined {
  for (const limit of limits) {
    const missing = limit(source, names);
    if (missing) return missing;
  }
  return undefined;
}
