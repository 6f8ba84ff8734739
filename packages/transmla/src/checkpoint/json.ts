import { fail, FormatError } from "@transmla/core";

/** What a JSON text may look like before it is parsed. */
interface JsonLimits {
  /** How deep objects and arrays may nest; 64 unless said otherwise, several times what configurations use. */
  readonly depth?: number;
  /** Whether an object that has a key twice is refused. `JSON.parse` would keep the last one in silence. */
  readonly uniqueKeys?: boolean;
}

/**
 * Values in one JSON text. Parsed they take about half a gigabyte; the largest index known, of 497,000 tensors, has a
 * twentieth of that.
 */
const MAX_JSON_VALUES = 10_000_000;

/**
 * Decodes UTF-8 strictly.
 *
 * @param bytes - The text; a byte order mark stays in it.
 * @param operation - What errors name as the operation.
 * @param file - What errors call the file.
 * @throws FormatError with the position of the first byte that is not UTF-8.
 */
export function decodeUtf8(bytes: Uint8Array, operation: string, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    // The decoder does not say where: the lenient one puts a U+FFFD there, which encodes to other bytes.
    const lenient = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    const encoded = new TextEncoder().encode(lenient);
    const position = bytes.findIndex((byte, i) => byte !== encoded[i]);
    fail(
      FormatError,
      operation,
      `not UTF-8 near byte ${position < 0 ? bytes.length : position}`,
      file,
    );
  }
}

/**
 * Parses JSON of unknown origin: nesting, the number of values and, on request, repeated keys are checked before
 * anything is built from the text.
 *
 * @param text - The JSON text.
 * @param operation - What errors name as the operation.
 * @param file - What errors call the file.
 * @param limits - Bounds on the text.
 * @throws FormatError when the text is not JSON or is beyond a limit.
 */
export function parseJson(
  text: string,
  operation: string,
  file: string,
  limits: JsonLimits = {},
): unknown {
  scan(text, limits, (problem, at) =>
    fail(FormatError, operation, `${problem} at character ${at}`, file),
  );
  try {
    return JSON.parse(text);
  } catch (error) {
    fail(FormatError, operation, `not JSON: ${(error as Error).message}`, file);
  }
}

/** Walks over brackets, commas and keys. Text that is not JSON passes: `JSON.parse` words that error. */
function scan(
  text: string,
  { depth = 64, uniqueKeys = false }: JsonLimits,
  refuse: (problem: string, at: number) => never,
): void {
  const keysOfOpen: (Set<string> | undefined)[] = [];
  let values = 0;
  let lastString = [0, 0] as readonly [begin: number, end: number];
  for (let i = 0; i < text.length; i++) {
    switch (text.charAt(i)) {
      case '"':
        lastString = [i, endOfString(text, i)];
        i = lastString[1] - 1;
        break;
      case "{":
      case "[":
        values++;
        if (keysOfOpen.push(undefined) > depth) refuse(`nested deeper than ${depth} levels`, i);
        break;
      case "}":
      case "]":
        keysOfOpen.pop();
        break;
      case ",":
        values++;
        break;
      case ":": {
        if (!uniqueKeys || keysOfOpen.length === 0) break;
        const keys = (keysOfOpen[keysOfOpen.length - 1] ??= new Set());
        const key = unquote(text.slice(...lastString));
        if (keys.has(key)) refuse(`repeated key ${show(key)}`, lastString[0]);
        keys.add(key);
        break;
      }
      default:
    }
    if (values > MAX_JSON_VALUES) refuse(`more than ${MAX_JSON_VALUES} values`, i);
  }
}

/** One past the quote that closes the string which opens at `begin`. */
function endOfString(text: string, begin: number): number {
  for (let i = text.indexOf('"', begin + 1); i >= 0; i = text.indexOf('"', i + 1)) {
    let backslashes = 0;
    while (text[i - 1 - backslashes] === "\\") backslashes++;
    if (backslashes % 2 === 0) return i + 1;
  }
  return text.length;
}

/** The content of a quoted string; two spellings of one key must compare equal. */
function unquote(quoted: string): string {
  if (!quoted.includes("\\")) return quoted.slice(1, -1);
  try {
    return String(JSON.parse(quoted));
  } catch {
    return quoted;
  }
}

/**
 * Whether a parsed value is a JSON object.
 *
 * @param value - Anything that `JSON.parse` returns.
 */
export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * A value of unknown origin, short enough for a message.
 *
 * @param value - Anything that `JSON.parse` returns.
 */
export function show(value: unknown): string {
  const text = typeof value === "number" ? String(value) : (JSON.stringify(value) ?? "undefined");
  return text.length > 100 ? `${text.slice(0, 100)}...` : text;
}
