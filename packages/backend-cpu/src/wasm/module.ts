import { flatten, name, sized, unsigned, vector, type Code } from "./encoding.ts";
import {
  effect,
  operation,
  typeCodes,
  type Expression,
  type I32,
  type Int,
  type Statement,
  type V128,
  type ValueType,
} from "./expression.ts";
import { i32 } from "./scalar.ts";

/** A variable of a function; as an expression, its value. */
export class Local<T extends ValueType> implements Expression<T> {
  readonly type: T;
  readonly code: Code;
  readonly #index: Code;

  /**
   * @param type - What it holds.
   * @param index - Its number: parameters come first.
   */
  constructor(type: T, index: number) {
    this.type = type;
    this.#index = unsigned(index);
    this.code = [0x20, this.#index];
  }

  /**
   * Gives it a value.
   *
   * @param value - The value.
   */
  set(value: Expression<T>): Statement {
    return effect([0x21, this.#index], value);
  }

  /**
   * Gives it a value, and is that value.
   *
   * @param value - The value.
   */
  tee(value: Expression<T>): Expression<T> {
    return operation(this.type, [0x22, this.#index], value);
  }
}

/**
 * Adds to an integer variable.
 *
 * @param local - The variable.
 * @param amount - What is added.
 */
export function increase(local: Local<"i32">, amount: Int): Statement {
  return local.set(i32.add(local, amount));
}

/** The parameters of a function by name, in order. */
export type Parameters = Readonly<Record<string, ValueType>>;

/** Makes the variables of one function. Variables are 0 at first. */
export class FunctionScope {
  readonly #types: ValueType[];
  readonly #parameters: number;
  readonly #constants = new Map<string, Local<"v128">>();
  readonly #prologue: Statement[] = [];

  /** @param parameters - The types of the parameters. */
  constructor(parameters: readonly ValueType[]) {
    this.#types = [...parameters];
    this.#parameters = parameters.length;
  }

  /** The types of the variables that are not parameters. */
  get types(): readonly ValueType[] {
    return this.#types.slice(this.#parameters);
  }

  /** What sets the {@link constant} variables. */
  get prologue(): readonly Statement[] {
    return this.#prologue;
  }

  /**
   * A variable that has a value from the start: in a loop it is a register, where a vector constant would be made anew in
   * each round.
   *
   * @param value - A constant.
   */
  constant(value: V128): Local<"v128"> {
    const key = flatten(value.code).join();
    let local = this.#constants.get(key);
    if (!local) {
      local = this.local("v128");
      this.#constants.set(key, local);
      this.#prologue.push(local.set(value));
    }
    return local;
  }

  /**
   * A new variable.
   *
   * @param type - What it holds.
   */
  local<T extends ValueType>(type: T): Local<T> {
    return new Local(type, this.#types.push(type) - 1);
  }

  /**
   * New variables of one type.
   *
   * @param type - What they hold.
   * @param count - How many.
   */
  locals<T extends ValueType>(type: T, count: number): Local<T>[] {
    return Array.from({ length: count }, () => this.local(type));
  }
}

/** What a function is made of. */
export interface FunctionDefinition<P extends Parameters, R extends ValueType | undefined> {
  /** The types of its parameters by name, in order. */
  readonly parameters: P;
  /** What it returns: the value that the last expression leaves. */
  readonly result?: R;
  /** Whether the module exports it under its name. */
  readonly exported?: boolean;
  /** Makes its instructions, given the parameters as variables. */
  readonly body: (
    scope: FunctionScope,
    parameters: { readonly [K in keyof P]: Local<P[K]> },
  ) => readonly (Statement | Expression<ValueType>)[];
}

/** Calls a function with arguments by name: an expression where it returns a value. */
export type Call<P extends Parameters, R extends ValueType | undefined = undefined> = (arguments_: {
  readonly [K in keyof P]: Expression<P[K]>;
}) => R extends ValueType ? Expression<R> : Statement;

/** How a module sees the memory that it imports. */
export interface MemoryImport {
  /** Whether several threads share it. */
  readonly shared?: boolean;
  /** The most pages that it may have; a shared memory has to state them, and may have no more. */
  readonly maximum?: number;
}

interface DefinedFunction {
  readonly name: string;
  readonly type: Code;
  readonly exported: boolean;
  readonly body: Code;
}

const HEADER = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
const SECTIONS = { types: 1, imports: 2, functions: 3, exports: 7, code: 10 } as const;
const FUNCTION_TYPE = 0x60;
const [FUNCTION, MEMORY] = [0, 2];

/** Puts functions together into a module that imports one memory as `env.memory`. */
export class ModuleBuilder {
  readonly #memory: MemoryImport;
  readonly #functions: DefinedFunction[] = [];

  /** @param memory - How the module sees its memory. */
  constructor(memory: MemoryImport = {}) {
    this.#memory = memory;
  }

  /**
   * Adds a function.
   *
   * @param functionName - Its name.
   * @param definition - What it is made of.
   * @returns How later functions call it.
   */
  define<P extends Parameters, R extends ValueType | undefined = undefined>(
    functionName: string,
    definition: FunctionDefinition<P, R>,
  ): Call<P, R> {
    const { parameters, result, exported = true, body } = definition;
    const types = Object.values(parameters);
    const scope = new FunctionScope(types);
    const variables = Object.entries(parameters).map(([key, type], index) => {
      return [key, new Local(type, index)] as const;
    });
    const instructions = body(
      scope,
      Object.fromEntries(variables) as unknown as { readonly [K in keyof P]: Local<P[K]> },
    );
    const locals = vector(scope.types.map((type) => [1, typeCodes[type]]));
    const typeVector = (list: readonly ValueType[]): Code => {
      return vector(list.map((type) => [typeCodes[type]]));
    };
    const index = this.#functions.push({
      name: functionName,
      type: [FUNCTION_TYPE, typeVector(types), typeVector(result ? [result] : [])],
      exported,
      body: sized([locals, [...scope.prologue, ...instructions].map(({ code }) => code), 0x0b]),
    });
    const call = [0x10, unsigned(index - 1)];
    const keys = Object.keys(parameters);
    return ((arguments_) => {
      const operands = keys.map((key) => arguments_[key]!);
      return result ? operation(result, call, ...operands) : effect(call, ...operands);
    }) as Call<P, R>;
  }

  /** The module. */
  bytes(): Uint8Array<ArrayBuffer> {
    const functions = this.#functions;
    const { shared = false, maximum } = this.#memory;
    const flags = (shared ? 2 : 0) | (maximum === undefined ? 0 : 1);
    const limits = [flags, unsigned(1), maximum === undefined ? [] : unsigned(maximum)];
    const memory = [name("env"), name("memory"), MEMORY, limits];
    const exported = functions.flatMap((defined, index) => {
      return defined.exported ? [[name(defined.name), FUNCTION, unsigned(index)]] : [];
    });
    return Uint8Array.from(
      flatten([
        HEADER,
        sized(vector(functions.map(({ type }) => type)), SECTIONS.types),
        sized(vector([memory]), SECTIONS.imports),
        sized(vector(functions.map((_, index) => unsigned(index))), SECTIONS.functions),
        sized(vector(exported), SECTIONS.exports),
        sized(vector(functions.map(({ body }) => body)), SECTIONS.code),
      ]),
    );
  }
}

/**
 * The smaller of two integers, as unsigned. Both are computed twice.
 *
 * @param a - One.
 * @param b - The other.
 */
export function smaller(a: I32, b: Int): I32 {
  return i32.select(i32.ltU(a, b), a, b);
}
