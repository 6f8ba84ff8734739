import type { HuggingFaceConfig } from "../model/config/model-config.ts";

/** Fields that Transformers declares as floats and refuses as integers: `1` must be written `1.0`. */
const floatFields =
  "rms_norm_eps|routed_scaling_factor|initializer_range|attention_dropout|rope_theta|factor|attention_factor";

/**
 * The text of a `config.json`, with whole numbers in float fields written as floats.
 *
 * @param config - The fields.
 */
export function formatConfig(config: HuggingFaceConfig): string {
  const wholeFloat = new RegExp(String.raw`^(\s*"(?:${floatFields})": -?\d+)(,?)$`, "gm");
  return `${JSON.stringify(config, null, 2).replaceAll(wholeFloat, "$1.0$2")}\n`;
}
