import { fail, FormatError } from "@transmla/core";

import { isObject, show } from "../checkpoint/json.ts";
import type { Component } from "./pre-tokenizers.ts";

/** What a field of a component must be. */
interface Expected {
  readonly form: string;
  readonly accepts: (value: unknown) => boolean;
}

const text: Expected = { form: "a text", accepts: (value) => typeof value === "string" };
const flag: Expected = { form: "true or false", accepts: (value) => typeof value === "boolean" };
const count: Expected = {
  form: "an integer from 0",
  accepts: (value) => Number.isSafeInteger(value) && (value as number) >= 0,
};
const size: Expected = {
  form: "an integer from 1",
  accepts: (value) => count.accepts(value) && value !== 0,
};
const pattern: Expected = {
  form: '{"Regex": text} or {"String": text}',
  accepts: (value) => isObject(value) && text.accepts(value["Regex"] ?? value["String"]),
};
const tokenAndId: Expected = {
  form: "[token, id]",
  accepts: (value) =>
    Array.isArray(value) && value.length === 2 && text.accepts(value[0]) && count.accepts(value[1]),
};
const template: Expected = {
  form: 'a list of {"SpecialToken": {"id": text}} and {"Sequence": {"id": text}}',
  accepts: (value) => Array.isArray(value) && value.every(isTemplatePart),
};

function isTemplatePart(part: unknown): boolean {
  const inner = isObject(part) ? (part["SpecialToken"] ?? part["Sequence"]) : undefined;
  return isObject(inner) && text.accepts(inner["id"]);
}

function optional({ form, accepts }: Expected): Expected {
  return { form, accepts: (value) => value === undefined || value === null || accepts(value) };
}

function oneOf(...texts: readonly string[]): Expected {
  return { form: `one of ${texts.join(", ")}`, accepts: (value) => texts.some((x) => x === value) };
}

const around = { sep: tokenAndId, cls: tokenAndId };

/** The fields that `@huggingface/tokenizers` uses, by the type of the component. */
const fieldsOf: Readonly<Record<string, Readonly<Record<string, Expected>>>> = {
  BPEDecoder: { suffix: optional(text) },
  BertNormalizer: {
    clean_text: optional(flag),
    handle_chinese_chars: optional(flag),
    strip_accents: optional(flag),
    lowercase: optional(flag),
  },
  BertProcessing: around,
  ByteLevel: { add_prefix_space: optional(flag), use_regex: optional(flag) },
  CTC: {
    pad_token: optional(text),
    word_delimiter_token: optional(text),
    cleanup: optional(flag),
  },
  Digits: { individual_digits: optional(flag) },
  FixedLength: { length: size },
  Metaspace: {
    replacement: optional(text),
    str_rep: optional(text),
    prepend_scheme: optional(oneOf("always", "first", "never")),
    add_prefix_space: optional(flag),
    split: optional(flag),
  },
  Prepend: { prepend: text },
  Replace: { pattern, content: optional(text) },
  RobertaProcessing: around,
  Split: { invert: optional(flag) },
  // The normalizer has the sides, the decoder the rest.
  Strip: {
    strip_left: optional(flag),
    strip_right: optional(flag),
    content: optional(text),
    start: optional(count),
    stop: optional(count),
  },
  TemplateProcessing: { single: template },
  WordPiece: { prefix: optional(text), cleanup: optional(flag) },
};

/**
 * Checks the fields of a component that is not a sequence. The library takes them as they come: a `FixedLength` of zero
 * would never end.
 *
 * @param component - A component of a known type.
 * @param file - What errors call the file.
 * @param path - Where the component is in the file, for errors.
 * @throws FormatError that names the field and its value.
 */
export function checkComponentFields(component: Component, file: string, path: string): void {
  const fields = fieldsOf[String(component["type"])] ?? {};
  for (const [name, { form, accepts }] of Object.entries(fields)) {
    const value = component[name];
    if (!accepts(value)) {
      fail(FormatError, file, `${path}.${name} must be ${form}, found ${show(value)}`);
    }
  }
}

/** How many times longer the components of a sequence may make a text; those of published tokenizers stay below ten. */
const MAX_GROWTH = 4096;

/** How many times longer a component can make a text, what it only adds aside. */
function growthOf({
  type,
  pattern,
  content,
  single,
  replacement = "",
  str_rep: mark,
}: Component): number {
  switch (type) {
    case "ByteLevel":
      return 3; // bytes of a UTF-16 unit, each of which becomes a character
    case "Replace": {
      const replaced = isObject(pattern) ? pattern["String"] : undefined;
      const { length } = typeof content === "string" ? content : "";
      // An empty match stands between all characters.
      return typeof replaced === "string" && replaced !== ""
        ? length / replaced.length
        : length + 1;
    }
    case "Metaspace":
      return String(mark ?? replacement).length;
    case "TemplateProcessing":
      return (single as readonly Component[]).filter((part) => "Sequence" in part).length;
    default:
      return 1;
  }
}

/**
 * Throws for a component that could make an enormous text of a short one: in a sequence, factors multiply.
 *
 * @param component - A component whose fields are checked.
 * @param parts - Where a sequence keeps its parts.
 * @param file - What errors call the file.
 * @param path - Where the component is in the file, for errors.
 * @throws FormatError when the factors come to more than the limit.
 */
export function checkGrowth(component: Component, parts: string, file: string, path: string): void {
  const total = (part: Component): number =>
    part["type"] === "Sequence"
      ? (part[parts] as readonly Component[]).reduce((product, inner) => product * total(inner), 1)
      : Math.max(1, growthOf(part));
  if (total(component) > MAX_GROWTH) {
    fail(FormatError, file, `${path} could make a text more than ${MAX_GROWTH} times as long`);
  }
}
