import type { AttentionConfig, ModelConfig } from "../model/config/model-config.ts";

/** One line on the attention of a model. */
export function describeAttention(attention: AttentionConfig): string {
  switch (attention.kind) {
    case "grouped": {
      const { heads, kvHeads, headDim } = attention;
      const name =
        kvHeads === heads ? "multi-head" : kvHeads === 1 ? "multi-query" : "grouped-query";
      return `${name} attention, ${heads} query heads, ${kvHeads} kv heads of ${headDim}`;
    }
    case "factored":
      return `factored attention, ${attention.heads} heads of ${attention.headDim}, latents of ${attention.keyRank} + ${attention.valueRank}`;
    case "latent":
      return `latent attention, ${attention.heads} heads, latent of ${attention.latentRank}, shared rope key of ${attention.ropeDim}`;
  }
}

/** One line on a model. */
export function describeModel(config: ModelConfig, parameters: number): string {
  const size =
    parameters >= 1e9 ? `${(parameters / 1e9).toFixed(2)} B` : `${(parameters / 1e6).toFixed(2)} M`;
  return `${config.family}, ${size} parameters, ${config.layers} layers, hidden ${config.hiddenSize}, vocabulary ${config.vocabSize}, context ${config.contextLength}`;
}
