export { bundledModel } from "./bundled.ts";
export type { WeightDType } from "./load-weights.ts";
export { cacheBytes, type CacheDType } from "./model/cache-size.ts";
export { loadModel, readConfig, type LoadOptions, type Progress, type ReadConfig } from "./load.ts";
export type { ModelAssets } from "./assets.ts";

export type {
  AttentionConfig,
  DynamicBase,
  ExpertGroups,
  ExpertNames,
  ExpertsConfig,
  FactoredAttention,
  GroupedAttention,
  HuggingFaceConfig,
  LatentAttention,
  LongFrequencies,
  ModelConfig,
  NormNames,
  ProjectedAttention,
  ProjectedLayer,
  RopeConfig,
} from "./model/config/model-config.ts";
export { cacheConstant, cacheWidth } from "./model/config/model-config.ts";
export { parseConfig } from "./model/config/families.ts";
export { unknownFields } from "./model/config/known-fields.ts";
export { Model } from "./model/model.ts";
export { KeyValueCache } from "./model/cache.ts";
export type { LayerCache, LayerCacheLayout } from "./model/layer-cache.ts";
export type { ActivationDType, ForwardOptions } from "./model/transformer.ts";
export type { LatentForm } from "./model/attention.ts";
export type { RopeTables, SequenceTables } from "./model/rope.ts";

export { convert, convertCheckpoint } from "./convert/convert.ts";
export type {
  ConversionReport,
  ConvertCheckpointOptions,
  ConvertOptions,
  Rounding,
} from "./convert/convert.ts";
export type { ConversionMethod } from "./convert/conversion.ts";
export { chooseLatentSizes, latentSplits } from "./convert/latent/choose-sizes.ts";
export type { ChooseLatentSizesOptions, LatentSizes } from "./convert/latent/choose-sizes.ts";
export type { PublishedRecipe } from "./convert/latent/published/recipe.ts";
export { chooseLayerSizes } from "./convert/latent/projected/choose-layer-sizes.ts";
export type {
  ChooseLayerSizesOptions,
  LayerSizes,
} from "./convert/latent/projected/choose-layer-sizes.ts";
export type { ProjectedRecipe } from "./convert/latent/projected/recipe.ts";
export type { LatentRecipe } from "./convert/latent/recipe.ts";
export { memoryLayerStore } from "./convert/latent/layer-store.ts";
export type { LayerStore, StoredLayer } from "./convert/latent/layer-store.ts";
export type { Calibration, LayerReport } from "./convert/latent/method.ts";
export type { FactoredInit } from "./convert/factored.ts";
export type { OutputDType } from "./convert/merged.ts";
export { targets, type CacheSizes, type Target } from "./convert/targets.ts";
export type { HostTensor } from "./convert/host-tensor.ts";
export type { GgufWritableType } from "./checkpoint/gguf/types.ts";

export { compare, cutWindows, evaluate } from "./evaluate/evaluate.ts";
export type { Comparison, Evaluation, EvaluationOptions } from "./evaluate/evaluate.ts";

export { drawCharts, type Chart, type Series } from "./picture/chart.ts";

export { generate } from "./generate/generate.ts";
export type { GeneratedPiece, GenerateOptions, GenerationStatistics } from "./generate/generate.ts";
export { createSampler } from "./generate/sampling.ts";
export type { Sampler, SamplingOptions } from "./generate/sampling.ts";
export { createRandom } from "./generate/random.ts";
export { createStopMatcher, type StopMatch, type StopMatcher } from "./generate/stop.ts";

export { downloadModel } from "./hub/download.ts";
export { HubError } from "./hub/errors.ts";
export type { DownloadOptions } from "./hub/options.ts";
export type { Environment } from "./hub/settings.ts";
export { blobFolder, FileError, readJson } from "./checkpoint/folder.ts";
export type { ByteSource, Folder } from "./checkpoint/folder.ts";
export { memoryOutput } from "./checkpoint/output.ts";
export type { ByteSink, MemoryOutput, OutputFolder } from "./checkpoint/output.ts";
export { ggufFolder } from "./gguf/folder.ts";
export { openSafetensors } from "./checkpoint/safetensors.ts";
export { openCheckpoint } from "./checkpoint/shards.ts";
export { memoryTensors } from "./checkpoint/tensors.ts";
export type {
  StoredElements,
  TensorInfo,
  TensorSource,
  TensorValues,
} from "./checkpoint/tensors.ts";
export { createCheckpoint } from "./checkpoint/write.ts";
export type { CheckpointOptions, CheckpointWriter } from "./checkpoint/write.ts";
export type { StoredDType } from "./checkpoint/elements.ts";
export { parseChatTemplate, selectChatTemplate } from "./text/chat.ts";
export type {
  ChatMessage,
  ChatRenderOptions,
  ChatTemplate,
  ChatTemplateOptions,
} from "./text/chat.ts";
export { createTextStream, type TextStream } from "./text/stream.ts";
export { parseTokenizer } from "./text/tokenizer.ts";
export type { DecodeOptions, EncodeOptions, SpecialTokens, Tokenizer } from "./text/tokenizer.ts";
