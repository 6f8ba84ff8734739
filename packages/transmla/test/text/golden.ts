import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import type { ChatMessage } from "../../src/text/chat.ts";

/** What the Rust library `tokenizers` gives for one text. */
interface GoldenCase {
  readonly text: string;
  readonly ids: number[];
  readonly ids_no_special: number[];
  readonly decoded: string;
  readonly decoded_skip_special: string;
}

interface GoldenChat {
  readonly messages: readonly ChatMessage[];
  readonly tools?: readonly unknown[];
  readonly add_generation_prompt?: boolean;
  readonly rendered?: string;
  readonly ids?: number[];
  readonly error?: string;
}

interface Golden {
  readonly vocab_size: number;
  readonly cases: readonly GoldenCase[];
  readonly streaming: readonly { text: string; ids: number[]; prefix_decodings: string[] }[];
  readonly chats: readonly GoldenChat[];
}

/** One folder of `../shared/fixtures/tokenizers`. */
export interface GoldenTokenizer {
  readonly kind: string;
  readonly tokenizerJson: unknown;
  readonly tokenizerConfig: unknown;
  readonly chatTemplateJinja: string | undefined;
  readonly golden: Golden;
}

const folder = join(import.meta.dirname, "../../../../../shared/fixtures/tokenizers");

/** Whether `../shared` lies beside the repository. */
export const hasGolden: boolean = existsSync(folder);

/** The golden tokenizers; none without `../shared`. */
export const goldenTokenizers: readonly GoldenTokenizer[] = (
  hasGolden ? readdirSync(folder) : []
).map((kind) => {
  const read = (name: string): string => readFileSync(join(folder, kind, name), "utf8");
  const template = "chat_template.jinja";
  return {
    kind,
    tokenizerJson: JSON.parse(read("tokenizer.json")),
    tokenizerConfig: JSON.parse(read("tokenizer_config.json")),
    chatTemplateJinja: existsSync(join(folder, kind, template)) ? read(template) : undefined,
    golden: JSON.parse(read("golden.json")) as Golden,
  };
});
