import { readFile } from "node:fs/promises";

import { ArgumentError, fail, StateError } from "@transmla/core";

import { cutWindows } from "../evaluate/evaluate.ts";
import { generate } from "../generate/generate.ts";
import type { Model } from "../model/model.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** A text larger than this is not read whole. */
const MAX_TEXT_BYTES = 1_000_000_000;

/** Tokens that are sampled from a model when no text is given. */
const SAMPLED_TOKENS = 256;

/** Options of the commands that read a text. */
export interface TextOptions {
  readonly text?: string;
  readonly window?: number;
  readonly maxWindows?: number;
}

/** How a file becomes windows. */
interface FileLimits {
  readonly window?: number;
  readonly usual: number;
  readonly longest: number;
  readonly maxWindows?: number;
}

/** Reads a file of text; errors say which. */
export async function readTextFile(path: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    return fail(
      ArgumentError,
      "text",
      `cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      path,
    );
  }
  if (bytes.length > MAX_TEXT_BYTES)
    fail(ArgumentError, "text", `is larger than ${MAX_TEXT_BYTES} bytes`, path);
  return bytes.toString("utf8");
}

/** Reads token ids: a list, a list of lists, or an object that holds either as `input_ids` or `windows`. */
export async function readTokenRows(path: string): Promise<number[][]> {
  const text = await readTextFile(path);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    fail(
      ArgumentError,
      "tokens",
      `is not JSON: ${error instanceof Error ? error.message : String(error)}`,
      path,
    );
  }
  const held = json as { readonly input_ids?: unknown; readonly windows?: unknown } | null;
  const rows = Array.isArray(json) ? json : (held?.input_ids ?? held?.windows);
  const isRow = (row: unknown): row is number[] =>
    Array.isArray(row) && row.every((id) => Number.isInteger(id));
  if (isRow(rows) && rows.length > 0) return [rows];
  if (Array.isArray(rows) && rows.length > 0 && rows.every((row) => isRow(row) && row.length > 0))
    return rows as number[][];
  return fail(
    ArgumentError,
    "tokens",
    'must be a list of token ids, a list of lists, or {"input_ids": ...}',
    path,
  );
}

/**
 * Windows of token ids for an evaluation: from a text file, from a JSON file of ids, or sampled from the model itself.
 *
 * @returns The windows, and words that say where they come from.
 */
export async function readWindows(
  model: Model,
  options: TextOptions,
): Promise<{ windows: number[][]; from: string }> {
  const window = options.window ?? Math.min(model.config.contextLength, 512);
  if (window > model.config.contextLength) {
    fail(
      ArgumentError,
      "--window",
      `${window} is beyond the context of ${model.config.contextLength} tokens`,
    );
  }
  const describe = (windows: number[][], name: string): { windows: number[][]; from: string } => {
    const tokens = windows.reduce((sum, ids) => sum + ids.length, 0);
    const longest = Math.max(...windows.map((ids) => ids.length));
    const plural = windows.length === 1 ? "window" : "windows";
    return {
      windows,
      from: `${tokens} tokens of ${name} in ${windows.length} ${plural} of at most ${longest}`,
    };
  };
  if (options.text === undefined) {
    const ids = await sampleIds(model, Math.min(SAMPLED_TOKENS, window));
    return describe(
      cutWindows(ids, window, options.maxWindows),
      "text sampled from the first model",
    );
  }
  const limits = { ...options, usual: window, longest: model.config.contextLength };
  const windows = await fileWindows(options.text, model.assets.tokenizer, limits);
  return describe(windows, options.text);
}

/**
 * Windows of a file: those of a `.json` file as they are, a text cut into windows of one length.
 *
 * @param path - The file.
 * @param tokenizer - For a text.
 * @param limits - `window` cuts those of a `.json` file too, `usual` is for texts where it is absent and for what is
 *   longer than the `longest` that a model takes.
 */
export async function fileWindows(
  path: string,
  tokenizer: Tokenizer | undefined,
  { window, usual, longest, maxWindows }: FileLimits,
): Promise<number[][]> {
  if (path.endsWith(".json")) {
    const rows = await readTokenRows(path);
    const whole = (row: readonly number[]): boolean =>
      window === undefined && row.length <= longest;
    return rows
      .flatMap((row) => (whole(row) ? [row] : cutWindows(row, window ?? usual)))
      .slice(0, maxWindows);
  }
  if (!tokenizer)
    fail(StateError, "text", "the model has no tokenizer.json; give token ids in a .json file");
  const ids = tokenizer.encode(await readTextFile(path), { specialTokens: false });
  return cutWindows(ids, window ?? usual, maxWindows);
}

/** Samples a text from a model: its begin token, and what follows at temperature 1. */
export async function sampleIds(model: Model, count: number, seed = 0): Promise<number[]> {
  const begin = model.huggingFaceConfig["bos_token_id"];
  const ids = [typeof begin === "number" ? begin : 0];
  const options = { maxTokens: Math.max(count - 1, 1), temperature: 1, seed, ignoreEnd: true };
  for await (const { id } of generate(model, [...ids], options)) ids.push(id);
  return ids;
}
