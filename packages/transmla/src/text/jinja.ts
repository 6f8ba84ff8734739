import * as library from "@huggingface/jinja";
import { ArgumentError, fail, FormatError, TransmlaError, UnsupportedError } from "@transmla/core";

/** Templates longer than this are not parsed; the longest published ones are below 2^17 characters. */
const MAX_SOURCE = 2 ** 20;

/** No text in a rendering may be longer: four times the characters of a context of a million tokens. */
const MAX_TEXT = 2 ** 24;

/** No list may be longer; the limit of `range` in Jinja's own sandbox (`MAX_RANGE`). */
const MAX_LIST = 100_000;

/** Nodes that may be evaluated: a thousand messages take 26,517 in the template of Qwen2. */
const MAX_STEPS = 1_000_000;

/** Spaces at the beginning of a line. */
const MAX_INDENT = 100;

/** Characters of an error message. */
const MAX_MESSAGE = 1000;

/** What is used of the library. Its own types do not resolve under `nodenext`. */
interface Library {
  tokenize(
    this: void,
    source: string,
    options: { lstrip_blocks: boolean; trim_blocks: boolean },
  ): unknown;
  parse(this: void, tokens: unknown): unknown;
  Environment: new () => { set(name: string, value: unknown): void };
  Interpreter: new (environment: unknown) => Interpreter;
}

interface Interpreter {
  run(program: unknown): { readonly value: unknown };
  /** The bounds of a slice may be absent. */
  evaluate(
    node: Node | undefined,
    environment: unknown,
  ): { readonly type: string; readonly value: unknown };
}

/** A part of a program; `filter` is there in the use of a filter, and has arguments when it is called. */
interface Node {
  readonly type: string;
  readonly filter?: {
    readonly callee?: { readonly value: unknown };
    readonly args?: readonly Node[];
  };
  readonly argument?: Node;
  readonly value?: unknown;
}

const { tokenize, parse, Environment, Interpreter } = library as unknown as Library;

/** The names that every template knows. */
const CONSTANTS = { true: true, True: true, false: false, False: false, none: null, None: null };

/**
 * Compiles a Jinja template as Hugging Face Transformers does: blocks trim the white space around them.
 *
 * Texts, lists and the number of evaluated nodes are bounded. The time of one node is not (a filter over a text of the
 * greatest length): run templates of unknown origin in a worker that can be ended.
 *
 * @param source - The template.
 * @param operation - What errors call it.
 * @param now - The clock of `strftime_now`.
 * @returns A function from variables to the rendered text.
 * @throws FormatError when the template does not parse. The function throws an ArgumentError with the message of the
 *   template's `raise_exception`, and an UnsupportedError for anything else that goes wrong and beyond the bounds.
 */
export function compileTemplate(
  source: string,
  operation: string,
  now: () => Date,
): (variables: Readonly<Record<string, unknown>>) => string {
  if (source.length > MAX_SOURCE) {
    fail(
      FormatError,
      operation,
      `the template has ${source.length} characters; the most is ${MAX_SOURCE}`,
    );
  }
  const program = attempt(FormatError, operation, () =>
    parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true })),
  );
  const globals = {
    ...CONSTANTS,
    range: (...bounds: readonly number[]) => range(operation, ...bounds),
    raise_exception: (message: unknown) => fail(ArgumentError, operation, shorten(String(message))),
    strftime_now: (format: unknown) => formatTime(now(), String(format)),
  };
  return (variables) =>
    attempt(UnsupportedError, operation, () => {
      const environment = new Environment();
      for (const [name, value] of Object.entries({ ...globals, ...variables })) {
        if (value !== undefined) environment.set(name, value);
      }
      return String(bounded(new Interpreter(environment), operation).run(program).value);
    });
}

/** Turns what the library throws into errors of this one. */
function attempt<T>(kind: typeof FormatError, operation: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (error instanceof TransmlaError) throw error;
    return fail(kind, operation, shorten(error instanceof Error ? error.message : String(error)));
  }
}

/** What a template says when it fails may hold the whole conversation, or more. */
function shorten(message: string): string {
  return message.length > MAX_MESSAGE ? `${message.slice(0, MAX_MESSAGE)}...` : message;
}

/** Counts every node that the interpreter evaluates and checks what comes of it. */
function bounded(interpreter: Interpreter, operation: string): Interpreter {
  const evaluate = interpreter.evaluate.bind(interpreter);
  let steps = 0;
  interpreter.evaluate = (node, environment) => {
    if (++steps > MAX_STEPS) exceeded(operation, `takes more than ${MAX_STEPS} steps`);
    for (const width of indentArguments(node)) {
      // Filters make the text before it could be measured. Arguments have no effects: they may be evaluated twice.
      const { value } = evaluate(width, environment);
      const widths = Array.isArray(value)
        ? value.map((item: { value: unknown }) => item.value)
        : [value];
      if (widths.some((x) => typeof x === "number" && x > MAX_INDENT)) {
        exceeded(operation, `indents by more than ${MAX_INDENT} spaces`);
      }
    }
    const result = evaluate(node, environment);
    if (typeof result.value === "string" && result.value.length > MAX_TEXT) {
      exceeded(operation, `makes a text of more than ${MAX_TEXT} characters`);
    }
    if (Array.isArray(result.value) && result.value.length > MAX_LIST) {
      exceeded(operation, `makes a list of more than ${MAX_LIST} items`);
    }
    return result;
  };
  return interpreter;
}

/** What is passed to a filter that indents. */
function indentArguments(node: Node | undefined): readonly Node[] {
  const filter = node?.filter;
  const name = filter?.callee?.value;
  if (name !== "indent" && name !== "tojson") return [];
  return (filter?.args ?? []).map((arg) => {
    if (arg.type === "SpreadExpression") return arg.argument!;
    return arg.type === "KeywordArgumentExpression" ? (arg.value as Node) : arg;
  });
}

function exceeded(operation: string, what: string): never {
  return fail(UnsupportedError, operation, `the template ${what}`);
}

/** Python's `range`. */
function range(operation: string, ...bounds: readonly number[]): number[] {
  const [start, stop, step] =
    bounds.length < 2 ? [0, bounds[0] ?? 0, 1] : [bounds[0]!, bounds[1]!, bounds[2] ?? 1];
  if (![start, stop, step].every(Number.isInteger) || step === 0) {
    fail(
      UnsupportedError,
      operation,
      `range(${bounds.join(", ")}) needs integers and a step other than 0`,
    );
  }
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length > MAX_LIST) exceeded(operation, `makes a list of more than ${MAX_LIST} items`);
  return Array.from({ length }, (_, i) => start + i * step);
}

/** Python's `strftime` in the C locale. */
function formatTime(date: Date, format: string): string {
  const two = (x: number): string => String(x).padStart(2, "0");
  const english = (options: Intl.DateTimeFormatOptions): string =>
    new Intl.DateTimeFormat("en-US", options).format(date);
  const hour12 = date.getHours() % 12 || 12;
  const fields: Readonly<Record<string, () => string>> = {
    "%Y": () => String(date.getFullYear()),
    "%y": () => two(date.getFullYear() % 100),
    "%m": () => two(date.getMonth() + 1),
    "%d": () => two(date.getDate()),
    "%H": () => two(date.getHours()),
    "%I": () => two(hour12),
    "%M": () => two(date.getMinutes()),
    "%S": () => two(date.getSeconds()),
    "%p": () => (date.getHours() < 12 ? "AM" : "PM"),
    "%B": () => english({ month: "long" }),
    "%b": () => english({ month: "short" }),
    "%A": () => english({ weekday: "long" }),
    "%a": () => english({ weekday: "short" }),
    "%%": () => "%",
  };
  return format.replace(/%./g, (directive) => fields[directive]?.() ?? directive);
}
