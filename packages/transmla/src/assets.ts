import { readJson, readText, type Folder } from "./checkpoint/folder.ts";
import type { SamplingOptions } from "./generate/sampling.ts";
import { Fields } from "./model/config/fields.ts";
import type { HuggingFaceConfig } from "./model/config/model-config.ts";
import { parseChatTemplate, selectChatTemplate, type ChatTemplate } from "./text/chat.ts";
import { parseTokenizer, type Tokenizer } from "./text/tokenizer.ts";

/** What belongs to a model besides its weights. */
export interface ModelAssets {
  /** The folder that the model was read from; absent for one that was made in memory. */
  readonly path?: string;
  /** From `tokenizer.json`, if there is one. */
  readonly tokenizer: Tokenizer | undefined;
  /** From `chat_template.jinja` or `tokenizer_config.json`, if there is one. */
  readonly chatTemplate: ChatTemplate | undefined;
  /** The tokens that end a text. */
  readonly endTokens: readonly number[];
  /** The sampling that `generation_config.json` asks for. */
  readonly sampling: SamplingOptions;
}

/** The largest vocabularies take about 35 MB of `tokenizer.json`. */
const MAX_TOKENIZER_BYTES = 200_000_000;
/** Templates and the other files are small. */
const MAX_SMALL_BYTES = 10_000_000;

/** The files that a converted model shares with its source. */
export const carriedFiles: readonly string[] = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "generation_config.json",
];

/** The tokenizer of a folder and its chat template, as they are stored. */
export interface TokenizerFiles {
  /** The parsed `tokenizer.json`, if there is one. */
  readonly json: unknown;
  /** The parsed `tokenizer_config.json`; empty when there is none. */
  readonly config: unknown;
  /** The text of the chat template, if there is one, and what errors call its file. */
  readonly template: { readonly text: string; readonly file: string } | undefined;
}

/**
 * Reads tokenizer and chat template without understanding them.
 *
 * @param folder - The model.
 */
export async function readTokenizerFiles(folder: Folder): Promise<TokenizerFiles> {
  const config = (await readOptional(folder, "tokenizer_config.json", MAX_SMALL_BYTES)) ?? {};
  const jinja = (await folder.exists("chat_template.jinja"))
    ? await readText(folder, "chat_template.jinja", MAX_SMALL_BYTES)
    : undefined;
  const configPath = `${folder.path}/tokenizer_config.json`;
  const text = selectChatTemplate(config, jinja, configPath);
  const file = jinja === undefined ? configPath : `${folder.path}/chat_template.jinja`;
  return {
    json: await readOptional(folder, "tokenizer.json", MAX_TOKENIZER_BYTES),
    config,
    template: text === undefined ? undefined : { text, file },
  };
}

async function readOptional(folder: Folder, name: string, limit: number): Promise<unknown> {
  return (await folder.exists(name)) ? readJson(folder, name, limit) : undefined;
}

/**
 * Reads tokenizer, chat template and generation defaults. Each may be absent.
 *
 * @param folder - The model.
 * @param config - Its `config.json`, for the end tokens.
 */
export async function readAssets(folder: Folder, config: HuggingFaceConfig): Promise<ModelAssets> {
  const files = await readTokenizerFiles(folder);
  const generation = (await readOptional(folder, "generation_config.json", MAX_SMALL_BYTES)) ?? {};
  const defaults = new Fields(generation, `${folder.path}/generation_config.json`);
  const tokenizer =
    files.json === undefined
      ? undefined
      : parseTokenizer(
          files.json,
          files.config,
          `${folder.path}/tokenizer.json`,
          `${folder.path}/tokenizer_config.json`,
        );
  const { template } = files;
  return {
    path: folder.path,
    tokenizer,
    chatTemplate:
      template &&
      parseChatTemplate(template.text, { ...tokenizer?.specialTokens, file: template.file }),
    endTokens:
      readEndTokens(defaults) ??
      readEndTokens(new Fields(config, `${folder.path}/config.json`)) ??
      [],
    sampling: readSampling(defaults),
  };
}

function readEndTokens(fields: Fields): readonly number[] | undefined {
  const stated = fields.raw("eos_token_id");
  if (stated === undefined) return undefined;
  const ids: readonly unknown[] = Array.isArray(stated) ? stated : [stated];
  const isId = (id: unknown): id is number => Number.isSafeInteger(id) && (id as number) >= 0;
  return ids.every(isId)
    ? ids
    : fields.refuse("eos_token_id", "must be a token id or a list of them");
}

function readSampling(defaults: Fields): SamplingOptions {
  if (!defaults.flag("do_sample", false)) return {};
  return {
    temperature: defaults.positive("temperature", 1),
    ...(defaults.has("top_k") && defaults.count("top_k") > 0
      ? { topK: defaults.size("top_k") }
      : {}),
    ...(defaults.has("top_p") ? { topP: defaults.positive("top_p") } : {}),
    ...(defaults.has("min_p") && defaults.raw("min_p") !== 0
      ? { minP: defaults.positive("min_p") }
      : {}),
    ...(defaults.has("repetition_penalty")
      ? { repetitionPenalty: defaults.positive("repetition_penalty") }
      : {}),
  };
}

/**
 * The files that a converted model shares with its source, as they are.
 *
 * @param folder - The source.
 * @returns Those that exist, by name.
 */
export async function assetFiles(folder: Folder): Promise<ReadonlyMap<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>();
  for (const name of carriedFiles) {
    if (!(await folder.exists(name))) continue;
    const source = await folder.open(name);
    try {
      files.set(name, await source.read(0, source.size));
    } finally {
      await source.close();
    }
  }
  return files;
}
