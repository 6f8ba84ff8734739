import { fc } from "@fast-check/vitest";

import { damage, encode } from "./bytes.ts";
import { fuzz, type Files } from "./harness.ts";
import { jsonDamage } from "./json.ts";
import { asBytes, damageFile, decode, textFolders } from "./originals.ts";
import { readTexts } from "./readers.ts";
import { jinjaProgram } from "./templates.ts";

const anyDamage = fc.oneof(
  { weight: 1, arbitrary: damage },
  { weight: 3, arbitrary: asBytes(jsonDamage) },
);

fuzz("tokenizer.json", damageFile(textFolders, "tokenizer.json", anyDamage), readTexts);
fuzz(
  "tokenizer_config.json",
  damageFile(textFolders, "tokenizer_config.json", anyDamage),
  readTexts,
);
fuzz(
  "generation_config.json",
  damageFile(textFolders, "generation_config.json", anyDamage),
  readTexts,
);

/** A template that needs no golden data. */
const chatMl = `{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim }}
{%- if not loop.last %}{{ '<|im_end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;

/** The templates, each in a file of its own. */
const found = textFolders.flatMap((files): Files[] => {
  const inFile = files["chat_template.jinja"];
  const config = JSON.parse(decode(files["tokenizer_config.json"]!)) as Record<string, unknown>;
  const inConfig = config["chat_template"];
  if (inFile) return [{ "chat_template.jinja": inFile }];
  return typeof inConfig === "string" ? [{ "chat_template.jinja": encode(inConfig) }] : [];
});
const templates: Files[] = [{ "chat_template.jinja": encode(chatMl) }, ...found];
fuzz("chat template", damageFile(templates, "chat_template.jinja", damage), readTexts, 0.7);

fuzz(
  "chat template of right form",
  jinjaProgram.map((template): Files => ({ "chat_template.jinja": encode(template) })),
  readTexts,
  0.3,
);
