import { createInterface } from "node:readline/promises";

import { fail, UnsupportedError } from "@transmla/core";

import type { ChatMessage } from "../../text/chat.ts";
import { openModel, type CommandContext, type StorageOptions } from "../context.ts";
import { describeStatistics, generateOptions, streamText, type SamplingFlags } from "./generate.ts";

/** The memory of a chat, in tokens: contexts of a million would not fit. */
const CHAT_POSITIONS = 8192;

/** Talks with a model through its chat template. Each turn reuses the cache of what came before. */
export async function chat(
  path: string,
  {
    system,
    weights,
    activations,
    kvDtype,
    ...flags
  }: SamplingFlags & StorageOptions & { readonly system?: string },
  context: CommandContext,
): Promise<void> {
  const { report, signal } = context;
  using model = await openModel(path, context, { weights, activations });
  const { chatTemplate, tokenizer } = model.assets;
  if (!chatTemplate || !tokenizer) {
    fail(UnsupportedError, "chat", "the model has no chat template; use transmla generate", path);
  }
  using cache = model.createCache(Math.min(model.config.contextLength, CHAT_POSITIONS), kvDtype);
  const messages: ChatMessage[] = system === undefined ? [] : [{ role: "system", content: system }];
  let cached: number[] = [];
  const terminal = createInterface({
    input: process.stdin,
    output: process.stderr,
    prompt: process.stdin.isTTY ? "> " : "",
  });
  report.remark("An empty line or Ctrl-D ends the chat.");
  terminal.prompt();
  try {
    for await (const line of terminal) {
      if (line.trim() === "") break;
      messages.push({ role: "user", content: line });
      const rendered = chatTemplate.render(messages, { addGenerationPrompt: true });
      const ids = tokenizer.encode(rendered, { specialTokens: false });
      const common = commonPrefix(cached, ids.slice(0, -1));
      const shared = cache.holds(common) ? common : 0;
      cache.rollback(shared);
      const options = { ...generateOptions(model, flags, signal), cache };
      const answer = await streamText(model, ids.slice(shared), options, report);
      report.line();
      report.remark(describeStatistics(answer.statistics));
      cached = [...ids, ...answer.ids].slice(0, cache.length);
      messages.push({ role: "assistant", content: answer.text });
      terminal.prompt();
    }
  } finally {
    terminal.close();
  }
  report.result({ model: path, messages });
}

function commonPrefix(a: readonly number[], b: readonly number[]): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
