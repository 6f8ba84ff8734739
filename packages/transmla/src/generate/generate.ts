import { ArgumentError, fail, StateError } from "@transmla/core";

import type { CacheDType } from "../model/cache-size.ts";
import type { KeyValueCache } from "../model/cache.ts";
import type { Model } from "../model/model.ts";
import { createTextStream, type TextStream } from "../text/stream.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { nextLogits, type NextLogits } from "./next-logits.ts";
import { createSampler, decidingLogits, type SamplingOptions } from "./sampling.ts";
import { createStopMatcher, type StopMatch, type StopMatcher } from "./stop.ts";

/** How many prompt tokens pass the model at a time, so that an abort is noticed. */
const PREFILL_CHUNK = 512;

/** Choices of {@link generate}. Greedy when no temperature is given. */
export interface GenerateOptions extends SamplingOptions {
  /** The most tokens; what the context holds when absent. */
  readonly maxTokens?: number | undefined;
  /** Texts that end the generation; they are not part of it. */
  readonly stop?: readonly string[] | undefined;
  /** Goes on after the tokens that end a text. */
  readonly ignoreEnd?: boolean | undefined;
  /** How cached numbers are stored where no `cache` is given; `f32` when absent. */
  readonly cacheDType?: CacheDType | undefined;
  /** A sequence to go on with: the prompt is appended to it. The caller keeps and disposes of it. */
  readonly cache?: KeyValueCache | undefined;
  /** Stops before the next token; the loop throws the reason of the signal. */
  readonly signal?: AbortSignal | undefined;
  /** Called at the end, with what was measured. */
  readonly onFinish?: ((statistics: GenerationStatistics) => void) | undefined;
}

/** One token of a generated text. */
export interface GeneratedPiece {
  /** The token; an end token where it only releases text that was held back. */
  readonly id: number;
  /** The text that has become certain: whole characters, possibly none, possibly of several tokens. */
  readonly text: string;
}

/** What {@link generate} measures. */
export interface GenerationStatistics {
  /** Why it ended: an end token, a stop text, or the number of tokens. */
  readonly reason: "end" | "stop" | "length";
  /** Tokens of the prompt. */
  readonly promptTokens: number;
  /** Tokens generated. */
  readonly tokens: number;
  /** Tokens of the prompt per second. */
  readonly prefillTokensPerSecond: number;
  /** Generated tokens per second, after the first. */
  readonly decodeTokensPerSecond: number;
  /** Bytes of the cache at its capacity. */
  readonly cacheBytes: number;
}

/**
 * Continues a prompt, token by token.
 *
 * @param model - The model.
 * @param prompt - A text, which the model's tokenizer encodes with its special tokens, or token ids.
 * @param options - Sampling, length, stop texts, abort.
 * @returns An async iterator. Leaving the loop early frees everything.
 * @throws ArgumentError when the prompt is empty or does not fit the context.
 *
 * @example
 * ```ts
 * import { cpuBackend } from "@transmla/backend-cpu";
 * import { bundledModel, generate, loadModel } from "transmla";
 * using model = await loadModel(bundledModel, { backend: await cpuBackend() });
 * const ids: number[] = [];
 * for await (const { id } of generate(model, "First Citizen:", { maxTokens: 5, temperature: 0.8, seed: 1 })) ids.push(id);
 * console.log(ids.length); // => 5
 * ```
 */
export async function* generate(
  model: Model,
  prompt: string | readonly number[],
  options: GenerateOptions = {},
): AsyncGenerator<GeneratedPiece, void, undefined> {
  const sampler = createSampler(options);
  const largest = decidingLogits(options);
  const ids = typeof prompt === "string" ? encodePrompt(model, prompt) : [...prompt];
  const promptTokens = ids.length;
  const maxTokens = checkLength(model, ids, options);
  const { contextLength } = model.config;
  const cache =
    options.cache ??
    model.createCache(Math.min(promptTokens + maxTokens, contextLength), options.cacheDType);
  const text = new TextAssembler(model.assets.tokenizer, options.stop ?? []);
  const ends = new Set(options.ignoreEnd ? [] : model.assets.endTokens);
  const clock = new Clock();
  let reason: GenerationStatistics["reason"] = "length";
  try {
    let next = await prefill(model, ids, cache, largest, options.signal);
    clock.prefilled();
    for (;;) {
      options.signal?.throwIfAborted();
      const index = sampler(next.logits, ids);
      const id = next.ids?.[index] ?? index;
      if (ends.has(id)) {
        reason = "end";
        const rest = text.end();
        if (rest !== "") yield { id, text: rest };
        break;
      }
      ids.push(id);
      const last = ids.length === promptTokens + maxTokens;
      const piece = text.push(id, last);
      yield { id, text: piece.text };
      if (piece.stopped) reason = "stop";
      if (piece.stopped || last) break;
      next = await nextLogits(model, [id], cache, largest);
    }
    options.onFinish?.(
      clock.statistics(reason, promptTokens, ids.length - promptTokens, cache.bytes),
    );
  } finally {
    if (!options.cache) cache[Symbol.dispose]();
  }
}

/** Turns tokens into text that is certain: whole characters, and nothing that may begin a stop text. */
class TextAssembler {
  readonly #stream: TextStream | undefined;
  readonly #matcher: StopMatcher;

  constructor(tokenizer: Tokenizer | undefined, stops: readonly string[]) {
    this.#stream = tokenizer && createTextStream(tokenizer);
    this.#matcher = createStopMatcher(stops);
  }

  /** The text that a token makes certain; after the last token, all that was held back as well. */
  push(id: number, last: boolean): StopMatch {
    const matched = this.#matcher.push(this.#stream?.push(id) ?? "");
    if (!last || matched.stopped) return matched;
    return { text: matched.text + this.end(), stopped: false };
  }

  /** What was held back. */
  end(): string {
    const matched = this.#matcher.push(this.#stream?.end() ?? "");
    return matched.stopped ? matched.text : matched.text + this.#matcher.end();
  }
}

function encodePrompt(model: Model, prompt: string): number[] {
  const { tokenizer } = model.assets;
  if (!tokenizer)
    fail(StateError, "generate", "the model has no tokenizer.json; pass token ids as the prompt");
  return tokenizer.encode(prompt);
}

/** How many tokens may be generated; throws when not one fits. */
function checkLength(
  model: Model,
  ids: readonly number[],
  { cache, maxTokens }: GenerateOptions,
): number {
  if (ids.length === 0)
    fail(ArgumentError, "generate", "the prompt is empty; it needs at least one token");
  if (maxTokens !== undefined && !(Number.isInteger(maxTokens) && maxTokens >= 1)) {
    fail(ArgumentError, "generate", `maxTokens ${maxTokens} must be a positive integer`);
  }
  const room = cache ? cache.capacity - cache.length : model.config.contextLength;
  if (ids.length >= room) {
    fail(
      ArgumentError,
      "generate",
      `the prompt has ${ids.length} tokens, but the context has room for ${room}; shorten the prompt`,
    );
  }
  return Math.min(maxTokens ?? room, room - ids.length);
}

async function prefill(
  model: Model,
  ids: readonly number[],
  cache: KeyValueCache,
  largest: number | undefined,
  signal: AbortSignal | undefined,
): Promise<NextLogits> {
  let start = 0;
  for (; start + PREFILL_CHUNK < ids.length; start += PREFILL_CHUNK) {
    signal?.throwIfAborted();
    await nextLogits(model, ids.slice(start, start + PREFILL_CHUNK), cache, largest);
  }
  return nextLogits(model, ids.slice(start), cache, largest);
}

/** Times the two phases. */
class Clock {
  readonly #start = performance.now();
  #prefilled = 0;

  prefilled(): void {
    this.#prefilled = performance.now();
  }

  statistics(
    reason: GenerationStatistics["reason"],
    promptTokens: number,
    tokens: number,
    cacheBytes: number,
  ): GenerationStatistics {
    const rate = (count: number, milliseconds: number): number =>
      milliseconds > 0 ? (count * 1000) / milliseconds : 0;
    return {
      reason,
      promptTokens,
      tokens,
      prefillTokensPerSecond: rate(promptTokens, this.#prefilled - this.#start),
      decodeTokensPerSecond: rate(Math.max(tokens - 1, 0), performance.now() - this.#prefilled),
      cacheBytes,
    };
  }
}
