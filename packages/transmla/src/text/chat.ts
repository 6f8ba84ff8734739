import { fail, FormatError, UnsupportedError } from "@transmla/core";

import { isObject, show } from "../checkpoint/json.ts";
import { compileTemplate } from "./jinja.ts";
import type { SpecialTokens } from "./tokenizer.ts";

/** One message of a conversation. Templates may read more fields, such as `tool_calls`. */
export interface ChatMessage {
  /** Who speaks: `system`, `user`, `assistant`, `tool`, or what the template knows. */
  readonly role: string;
  /** The text, or the parts that the template knows. */
  readonly content?: unknown;
  readonly [field: string]: unknown;
}

/** Choices of {@link parseChatTemplate}: the tokens that the template may write, the clock, and a name. */
export interface ChatTemplateOptions extends SpecialTokens {
  /** The time for templates that write the date; the present when absent. */
  readonly now?: (() => Date) | undefined;
  /** The file that has the template, for errors. */
  readonly file?: string | undefined;
}

/** Choices of {@link ChatTemplate.render}. */
export interface ChatRenderOptions {
  /** Whether to open the turn of the model at the end; false when absent. */
  readonly addGenerationPrompt?: boolean | undefined;
  /** JSON schemas of the functions that the model may call. */
  readonly tools?: readonly unknown[] | undefined;
  /** More variables of the template, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>> | undefined;
}

/** A conversation as the text that a model was trained on. */
export interface ChatTemplate {
  /**
   * Writes a conversation. Encode the result without special tokens: it has them in it.
   *
   * @param messages - The conversation, oldest first.
   * @param options - Generation prompt, tools, variables.
   * @throws ArgumentError with the template's own message when it refuses the conversation; UnsupportedError when it
   *   uses what this library does not know or exceeds its bounds.
   */
  render(messages: readonly ChatMessage[], options?: ChatRenderOptions): string;
}

/**
 * Compiles a chat template, a Jinja program that comes with a model.
 *
 * @param source - The template.
 * @param options - The special tokens, as {@link Tokenizer.specialTokens} has them.
 * @throws FormatError when the template does not parse.
 *
 * @example
 * ```ts
 * import { parseChatTemplate } from "transmla";
 * const template = parseChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content + eos_token }}{% endfor %}", { eosToken: "</s>" });
 * console.log(template.render([{ role: "user", content: "Hello" }])); // => "user: Hello</s>"
 * ```
 */
export function parseChatTemplate(source: string, options: ChatTemplateOptions = {}): ChatTemplate {
  const { bosToken, eosToken, unkToken, padToken, now = () => new Date(), file } = options;
  const name = file === undefined ? "chat template" : `${file}: chat template`;
  const render = compileTemplate(source, name, now);
  return {
    render: (messages, { addGenerationPrompt = false, tools, variables } = {}) =>
      render({
        bos_token: bosToken,
        eos_token: eosToken,
        unk_token: unkToken,
        pad_token: padToken,
        ...variables,
        messages,
        // Transformers passes None, which templates tell from an undefined variable.
        tools: tools ?? null,
        documents: variables?.["documents"] ?? null,
        add_generation_prompt: addGenerationPrompt,
      }),
  };
}

/**
 * Finds the chat template of a model: the file of its own, then `chat_template` of the tokenizer's configuration, where
 * a list of named templates stands for the one named `default`.
 *
 * @param tokenizerConfig - The parsed `tokenizer_config.json`; null or undefined when there is none.
 * @param chatTemplateJinja - The text of `chat_template.jinja`, if the model has one.
 * @param file - What errors call the first file.
 * @returns The source, or undefined when the model has no template.
 * @throws FormatError or UnsupportedError when there is one of another form.
 */
export function selectChatTemplate(
  tokenizerConfig: unknown,
  chatTemplateJinja?: string,
  file = "tokenizer_config.json",
): string | undefined {
  if (chatTemplateJinja !== undefined) return chatTemplateJinja;
  const value = isObject(tokenizerConfig)
    ? (tokenizerConfig["chat_template"] ?? undefined)
    : undefined;
  if (value === undefined || typeof value === "string") return value;
  if (!Array.isArray(value)) {
    return fail(FormatError, file, `chat_template must be a text or a list, found ${show(value)}`);
  }
  const named = new Map(
    value.map((entry: unknown, i) => readNamed(entry, file, `chat_template[${i}]`)),
  );
  const template = named.get("default");
  if (template !== undefined) return template;
  return fail(
    UnsupportedError,
    file,
    `chat_template has no template named "default"; there are ${show([...named.keys()])}`,
  );
}

function readNamed(
  entry: unknown,
  file: string,
  path: string,
): readonly [name: string, template: string] {
  if (isObject(entry)) {
    const { name, template } = entry;
    if (typeof name === "string" && typeof template === "string") return [name, template];
  }
  return fail(FormatError, file, `${path} must be {name, template}, found ${show(entry)}`);
}
