import { fail, FormatError } from "@transmla/core";

import { show } from "../../checkpoint/json.ts";

/** Sizes beyond this are a damaged file: the largest dimension of a real model is below 2^20, a context below 2^25. */
const MAX_SIZE = 2 ** 31;

/** The deepest models have a few hundred layers. */
export const MAX_LAYERS: number = 2 ** 12;

/** Reads the fields of a JSON object with types and bounds; errors name file, field and value. */
export class Fields {
  readonly #json: Readonly<Record<string, unknown>>;
  readonly #file: string;
  readonly #prefix: string;

  /**
   * @param json - A parsed JSON value; anything but an object is refused.
   * @param file - Its name, for errors.
   * @param prefix - The path of this object in the file, ending in a dot.
   */
  constructor(json: unknown, file: string, prefix = "") {
    if (typeof json !== "object" || json === null || Array.isArray(json)) {
      fail(FormatError, file, `${prefix.slice(0, -1) || "the file"} must be a JSON object`);
    }
    this.#json = json as Readonly<Record<string, unknown>>;
    this.#file = file;
    this.#prefix = prefix;
  }

  /** The field names that are present. */
  get names(): readonly string[] {
    return Object.keys(this.#json);
  }

  /** Whether a field is present and not null. */
  has(name: string): boolean {
    return this.raw(name) !== undefined;
  }

  /** The value, with null and absent both `undefined`. */
  raw(name: string): unknown {
    return Object.hasOwn(this.#json, name) ? (this.#json[name] ?? undefined) : undefined;
  }

  #value<T>(
    name: string,
    fallback: T | undefined,
    expected: string,
    accepts: (value: unknown) => value is T,
  ): T {
    const value = this.raw(name);
    const used = value === undefined ? fallback : value;
    if (accepts(used)) return used;
    // A fallback that follows from other fields can be out of bounds too.
    const implied = used === undefined ? "" : `, and the other fields make it ${show(used)}`;
    const found = value === undefined ? `it is missing${implied}` : `found ${show(value)}`;
    return fail(FormatError, this.#file, `${this.#prefix}${name} must be ${expected}, ${found}`);
  }

  /** A positive integer. */
  size(name: string, fallback?: number, limit: number = MAX_SIZE): number {
    return this.#value(
      name,
      fallback,
      `an integer from 1 to ${limit}`,
      (value): value is number => {
        return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= limit;
      },
    );
  }

  /** An integer that is zero or positive. */
  count(name: string, fallback?: number): number {
    return this.#value(
      name,
      fallback,
      `an integer from 0 to ${MAX_SIZE}`,
      (value): value is number => {
        return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MAX_SIZE;
      },
    );
  }

  /** A finite number above zero. */
  positive(name: string, fallback?: number): number {
    return this.#value(name, fallback, "a number above 0", (value): value is number => {
      return typeof value === "number" && Number.isFinite(value) && value > 0;
    });
  }

  /** A finite number. */
  number(name: string, fallback?: number): number {
    return this.#value(name, fallback, "a number", (value): value is number => {
      return typeof value === "number" && Number.isFinite(value);
    });
  }

  /** A truth value. */
  flag(name: string, fallback?: boolean): boolean {
    return this.#value(name, fallback, "true or false", (value) => typeof value === "boolean");
  }

  /** A text. */
  text(name: string, fallback?: string): string {
    return this.#value(name, fallback, "a text", (value) => typeof value === "string");
  }

  /** A list of finite numbers above zero. */
  positives(name: string, length: number): readonly number[] {
    const expected = `a list of ${length} numbers above 0`;
    return this.#value(name, undefined, expected, (value): value is readonly number[] => {
      return (
        Array.isArray(value) &&
        value.length === length &&
        value.every((x) => typeof x === "number" && Number.isFinite(x) && x > 0)
      );
    });
  }

  /** A list of texts, if present. */
  texts(name: string): readonly string[] | undefined {
    if (!this.has(name)) return undefined;
    return this.#value(name, undefined, "a list of texts", (value): value is readonly string[] => {
      return Array.isArray(value) && value.every((x) => typeof x === "string");
    });
  }

  /** A list of integers that are zero or positive. */
  counts(name: string, limit: number): readonly number[] {
    const expected = `a list of at most ${limit} integers from 0`;
    return this.#value(name, undefined, expected, (value): value is readonly number[] => {
      if (!Array.isArray(value) || value.length > limit) return false;
      return value.every((x) => Number.isInteger(x) && x >= 0);
    });
  }

  /** A list of nested objects. */
  objects(name: string, length: number): readonly Fields[] {
    const expected = `a list of ${length} objects`;
    const values = this.#value(name, undefined, expected, (value): value is readonly unknown[] => {
      return Array.isArray(value) && value.length === length;
    });
    return values.map((value, i) => new Fields(value, this.#file, `${this.#prefix}${name}[${i}].`));
  }

  /** A list of integers that are zero or positive, at most one for each layer, if present. */
  countsOfLayers(name: string): readonly number[] | undefined {
    return this.has(name) ? this.counts(name, MAX_LAYERS) : undefined;
  }

  /** A list of texts, at most one for each layer, if present. */
  textsOfLayers(name: string): readonly string[] | undefined {
    const texts = this.raw(name);
    if (Array.isArray(texts) && texts.length > MAX_LAYERS) {
      this.refuse(name, `has ${texts.length} texts; the most is ${MAX_LAYERS}`);
    }
    return this.texts(name);
  }

  /** A nested object. */
  object(name: string): Fields {
    return new Fields(this.raw(name), this.#file, `${this.#prefix}${name}.`);
  }

  /** Throws for a field whose value this library cannot honour. */
  refuse(name: string, problem: string): never {
    return fail(
      FormatError,
      this.#file,
      `${this.#prefix}${name} = ${show(this.raw(name))} ${problem}`,
    );
  }
}
