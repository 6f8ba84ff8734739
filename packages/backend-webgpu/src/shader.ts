import { loadFunction, storeFunction, storedType, type Stored } from "./wgsl.ts";

/** How a kernel uses one of its buffers. */
export interface Binding {
  /** Whether it writes. What it writes it may also read. */
  readonly access: "read" | "write";
  /** The type of the elements. */
  readonly stored: Stored;
  /**
   * How many elements one index stands for: `load_x(i)` and `store_x(i, value)` move this many. Buffers of 16-bit types
   * that are written one at a time hold atomic words.
   */
  readonly lanes: Lanes;
}

/** Elements moved at once. */
export type Lanes = 1 | 2 | 4;

/**
 * A buffer that a kernel reads.
 *
 * @param stored - The type of its elements.
 * @param lanes - Elements for each index.
 */
export function read(stored: Stored, lanes: Lanes = 1): Binding {
  return { access: "read", stored, lanes };
}

/**
 * A buffer that a kernel writes.
 *
 * @param stored - The type of its elements.
 * @param lanes - Elements for each index.
 */
export function write(stored: Stored, lanes: Lanes = 1): Binding {
  return { access: "write", stored, lanes };
}

/** The types of parameters; `vec4u` takes four numbers. */
export type ParameterType = "u32" | "i32" | "f32" | "vec4u";

/** What a shader's text depends on: dtypes, functions, numbers of lanes. Never sizes: those are parameters. */
export type Options = Readonly<Record<string, string | number | boolean | undefined>>;

/** A compute shader: its options, buffers, parameters and text in one place. */
export interface Shader<
  O extends object = Options,
  B extends string = string,
  P extends string = string,
> {
  /** Appears in the messages of errors. */
  readonly name: string;
  /** The values that each option may take; a test compiles the shader with all of them. */
  readonly options: { readonly [K in keyof O]: readonly O[K][] };
  /** Combinations of options that are never asked for. */
  readonly excludes?: (options: NoInfer<O>) => boolean;
  /** The buffers. Binding numbers are the order of the keys. */
  readonly bindings: (options: NoInfer<O>) => { readonly [N in B]?: Binding };
  /** Numbers that every call passes. They are members of `params`. */
  readonly params: Readonly<Record<P, ParameterType>>;
  /** Invocations of a workgroup; 64 when absent. */
  readonly workgroup?: (options: NoInfer<O>) => number;
  /** Functions, constants and workgroup variables. */
  readonly declarations?: (options: NoInfer<O>) => string;
  /**
   * The body of the entry point. `group` is the index of the workgroup, `lane` that of the invocation in it. The option
   * `subgroups` also gives it `subgroup_lane` and `subgroup_size`.
   */
  readonly body: (options: NoInfer<O>) => string;
}

/**
 * Checks the types of a shader.
 *
 * @param definition - The shader.
 */
export function shader<const O extends object, const B extends string, const P extends string>(
  definition: Shader<O, B, P>,
): Shader<O, B, P> {
  return definition;
}

/** A shader of any options, for lists. */
// oxlint-disable-next-line typescript/no-explicit-any
export interface AnyShader extends Omit<Shader<any>, "options"> {
  /** The values of each option. */
  readonly options: object;
}

/**
 * Every combination of options that a shader may be asked for.
 *
 * @param shader - Any shader.
 */
export function combinations({ options, excludes }: AnyShader): Options[] {
  let all: Options[] = [{}];
  for (const [name, values] of Object.entries(options as Record<string, readonly unknown[]>)) {
    all = all.flatMap((chosen) => values.map((value) => ({ ...chosen, [name]: value }) as Options));
  }
  return all.filter((chosen) => !excludes?.(chosen));
}

/** The position of a parameter in the uniform slot. */
export interface ParameterPlace {
  /** Its name. */
  readonly name: string;
  /** Its type. */
  readonly type: ParameterType;
  /** In words of 4 bytes. */
  readonly at: number;
}

/** The first word of each slot holds the number of workgroups. */
const FIRST_PARAMETER = 1;

/**
 * Where the parameters of a shader lie, by the rules of WGSL for structures in the uniform address space.
 *
 * @param params - Names and types.
 */
export function placeParameters(params: Readonly<Record<string, ParameterType>>): ParameterPlace[] {
  let at = FIRST_PARAMETER;
  return Object.entries(params).map(([name, type]) => {
    if (type === "vec4u") at = Math.ceil(at / 4) * 4;
    const place = { name, type, at };
    at += type === "vec4u" ? 4 : 1;
    return place;
  });
}

/**
 * The buffers of a shader, in the order of their numbers.
 *
 * @param shader - The shader.
 * @param options - One of its combinations.
 */
export function bindingsOf(shader: AnyShader, options: Options): Record<string, Binding> {
  return shader.bindings(options) as Record<string, Binding>;
}

/**
 * The WGSL of a shader.
 *
 * @param shader - The shader.
 * @param options - One of its combinations.
 */
export function moduleText(shader: AnyShader, options: Options): string {
  const bindings = Object.entries(bindingsOf(shader, options));
  const subgroups = options["subgroups"] === true;
  const declared = bindings.map(([name, binding], number) => {
    const space = binding.access === "read" ? "read" : "read_write";
    const declaration = `@group(0) @binding(${number}) var<storage, ${space}> ${name}: array<${storedType(binding)}>;`;
    return [declaration, loadFunction(name, binding), storeFunction(name, binding)].join("\n");
  });
  const members = Object.entries(shader.params).map(([name, type]) => `  ${name}: ${type},`);
  const builtins = [
    "@builtin(workgroup_id) workgroup: vec3u",
    "@builtin(num_workgroups) workgroups: vec3u",
    "@builtin(local_invocation_index) lane: u32",
    ...(subgroups
      ? [
          "@builtin(subgroup_invocation_id) subgroup_lane: u32",
          "@builtin(subgroup_size) subgroup_size: u32",
        ]
      : []),
  ];
  return [
    ...(subgroups ? ["enable subgroups;"] : []),
    ...(options["f16"] === true ? ["enable f16;"] : []),
    `struct Params {\n  groups: u32,\n${members.join("\n")}\n}`,
    "@group(1) @binding(0) var<uniform> params: Params;",
    ...declared,
    shader.declarations?.(options) ?? "",
    `@compute @workgroup_size(${shader.workgroup?.(options) ?? 64})`,
    `fn main(${builtins.join(", ")}) {`,
    "let group = workgroup.y * workgroups.x + workgroup.x;",
    "if (group >= params.groups) { return; }",
    shader.body(options),
    "}\n",
  ].join("\n");
}
