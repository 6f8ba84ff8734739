import { fail, UnsupportedError } from "@transmla/core";

import { isObject, show } from "../checkpoint/json.ts";

/** A component of `tokenizer.json`. */
export type Component = Readonly<Record<string, unknown>>;

/** The pattern of a byte-level pre-tokenizer with `use_regex` (GPT-2, `encoder.py`). */
const GPT2_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** Unicode punctuation, and the ASCII symbols that Rust counts as punctuation too. */
const PUNCTUATION = String.raw`[\p{P}!-/:-@\[-\x60{-~]`;

/** What the pieces of a split are, as a pattern that matches each piece with its separator. */
const SPLIT_PATTERNS: Readonly<Record<string, (separator: string) => string>> = {
  Isolated: (separator) => separator,
  // Without the last alternative, a text that has no separator would be searched again from each of its characters.
  MergedWithPrevious: (separator) => String.raw`[\s\S]*?(?:${separator})|[\s\S]+`,
  MergedWithNext: (separator) => String.raw`(?:${separator})[\s\S]*?(?=${separator}|\z)`,
  Contiguous: (separator) => `(?:${separator})+`,
};

/**
 * Restates a pre-tokenizer that `@huggingface/tokenizers` 0.2.0 reads differently from the Rust library `tokenizers`
 * in terms that both read alike.
 *
 * @param component - A pre-tokenizer that is not a sequence.
 * @param file - What errors call the file.
 * @param path - Where the component is in the file, for errors.
 * @throws UnsupportedError for a split that cannot be restated.
 */
export function restatePreTokenizer(component: Component, file: string, path: string): Component {
  switch (component["type"]) {
    case "Split":
      return restateSplit(component, file, path);
    case "Digits": {
      // The library knows ASCII digits only.
      return isolate(
        component["individual_digits"] === true ? String.raw`\p{N}` : String.raw`\p{N}+`,
      );
    }
    case "Punctuation": {
      // The library always joins neighbouring punctuation.
      const split = { behavior: "Isolated", ...component, pattern: { Regex: PUNCTUATION } };
      return restateSplit(split, file, path);
    }
    case "ByteLevel":
      // The library's own pattern counts U+FEFF as white space. A prefix space would come too late after the split.
      if (component["use_regex"] === false || component["add_prefix_space"] === true) {
        return component;
      }
      return sequence(isolate(GPT2_PATTERN), { ...component, use_regex: false });
    case "Metaspace":
      return restateMetaspace(component);
    default:
      return component;
  }
}

/** The library knows two of the five behaviours and drops what lies between inverted matches. */
function restateSplit(component: Component, file: string, path: string): Component {
  const { pattern, behavior, invert } = component;
  const separator = patternSource(pattern);
  if (separator === undefined) {
    const known = '{"Regex": text} or {"String": text}';
    return fail(UnsupportedError, file, `${path}.pattern = ${show(pattern)} is not ${known}`);
  }
  if (behavior === "Removed") return { ...component, pattern: { Regex: separator } };
  const pieces = typeof behavior === "string" ? SPLIT_PATTERNS[behavior] : undefined;
  if (pieces === undefined || (invert === true && behavior !== "Isolated")) {
    const inverted = invert === true ? " with invert = true" : "";
    const known =
      invert === true ? "Removed, Isolated" : `Removed, ${Object.keys(SPLIT_PATTERNS).join(", ")}`;
    return fail(
      UnsupportedError,
      file,
      `${path}.behavior = ${show(behavior)}${inverted} is not supported; known are ${known}`,
    );
  }
  return isolate(pieces(separator));
}

/** The library ignores `split`, and `add_prefix_space`, which files from before `prepend_scheme` have. */
function restateMetaspace(component: Component): Component {
  const { replacement = "▁", add_prefix_space: prefix, split } = component;
  const metaspace = {
    prepend_scheme: prefix === false ? "never" : "always",
    ...component,
    replacement,
  };
  if (split === false) return metaspace;
  const words = SPLIT_PATTERNS["MergedWithNext"]!(escapeRegex(String(replacement)));
  return sequence(metaspace, isolate(words));
}

function patternSource(pattern: unknown): string | undefined {
  if (!isObject(pattern)) return undefined;
  const { Regex: regex, String: text } = pattern;
  if (typeof regex === "string") return regex;
  return typeof text === "string" ? escapeRegex(text) : undefined;
}

function escapeRegex(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`);
}

function isolate(regex: string): Component {
  return { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
}

function sequence(...pretokenizers: readonly Component[]): Component {
  return { type: "Sequence", pretokenizers };
}
