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
    case "projected": {
      const { heads, kvHeads, headDim, exactFirst, layers } = attention;
      const latents = span(layers.map(({ latentRank }) => latentRank));
      const keys = span(layers.map(({ pairs }) => 2 * pairs.length));
      const first = exactFirst
        ? `, the first position exact (${2 * kvHeads * headDim} numbers)`
        : "";
      return `projected attention, ${heads} heads of ${headDim}, latents of ${latents}, shared rope keys of ${keys}${first}`;
    }
  }
}

/** The least and the greatest of numbers. */
function span(numbers: readonly number[]): string {
  const [least, greatest] = [Math.min(...numbers), Math.max(...numbers)];
  return least === greatest ? `${least}` : `${least} to ${greatest}`;
}

/** One line on a model. */
export function describeModel(config: ModelConfig, parameters: number): string {
  const size =
    parameters >= 1e9 ? `${(parameters / 1e9).toFixed(2)} B` : `${(parameters / 1e6).toFixed(2)} M`;
  return `${config.family}, ${size} parameters, ${config.layers} layers, hidden ${config.hiddenSize}, vocabulary ${config.vocabSize}, context ${config.contextLength}`;
}
