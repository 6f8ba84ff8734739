import { isBlock, type BlockDType, type DType } from "@transmla/core";

import type { Binding } from "./shader.ts";

/** What a buffer holds: elements of a dtype, or 16-bit patterns that are moved as they are. */
export type Stored = DType | "u16";

const half: ReadonlySet<Stored> = new Set(["f16", "bf16", "u16"]);

/**
 * Whether two elements share a word of 32 bits.
 *
 * @param stored - Any type.
 */
export function isHalf(stored: Stored): boolean {
  return half.has(stored);
}

/**
 * The WGSL type that elements have in registers: floats are widened to f32.
 *
 * @param stored - Any type.
 */
export function scalarType(stored: Stored): "f32" | "i32" | "u32" {
  if (stored === "i32" || stored === "u32") return stored;
  return stored === "u16" ? "u32" : "f32";
}

/**
 * Whether elements lie in blocks.
 *
 * @param stored - Any type.
 */
export function isBlocks(stored: Stored): stored is BlockDType {
  return stored !== "u16" && isBlock(stored);
}

/** `f32`, `vec2<f32>`, `vec4<f32>`. */
function vectorOf(scalar: string, lanes: number): string {
  return lanes === 1 ? scalar : `vec${lanes}<${scalar}>`;
}

/**
 * The WGSL type of the elements of a binding's array.
 *
 * @param binding - Any binding.
 */
export function storedType({ access, stored, lanes }: Binding): string {
  if (isBlocks(stored)) return "u32";
  if (!isHalf(stored)) return vectorOf(scalarType(stored), lanes);
  if (lanes === 4) return "vec2u";
  return lanes === 1 && access === "write" ? "atomic<u32>" : "u32";
}

/** Both elements of a word. */
function widened(stored: Stored, word: string): string {
  if (stored === "f16") return `unpack2x16float(${word})`;
  if (stored === "bf16") return `bitcast<vec2f>(vec2u(${word} << 16u, ${word} & 0xffff0000u))`;
  return `vec2u(${word} & 0xffffu, ${word} >> 16u)`;
}

/**
 * Statements that return the i-th element, or the i-th four, of blocks of words: an f32 scale, then 32 integers of 8 bits;
 * or of 4 bits, of which the low halves of all bytes are the first 16.
 */
const blockLoads: Readonly<
  Record<BlockDType, Readonly<Record<"one" | "four", (name: string) => string>>>
> = {
  q8: {
    one: (name) => `let block = (i >> 5u) * 9u; let word = ${name}[block + 1u + ((i & 31u) >> 2u)];
  return bitcast<f32>(${name}[block]) * f32(bitcast<i32>(word << (24u - (i & 3u) * 8u)) >> 24u);`,
    four: (name) => `let block = (i >> 3u) * 9u; let word = ${name}[block + 1u + (i & 7u)];
  return bitcast<f32>(${name}[block]) * vec4f((bitcast<vec4i>(vec4u(word) << vec4u(24u, 16u, 8u, 0u))) >> vec4u(24u));`,
  },
  q4: {
    one: (name) => `let block = (i >> 5u) * 5u; let word = ${name}[block + 1u + ((i & 15u) >> 2u)];
  return bitcast<f32>(${name}[block]) * f32(i32((word >> ((i & 3u) * 8u + ((i & 16u) >> 2u))) & 15u) - 8);`,
    four: (
      name,
    ) => `let block = (i >> 3u) * 5u; let word = ${name}[block + 1u + (i & 3u)] >> (i & 4u);
  return bitcast<f32>(${name}[block]) * vec4f(vec4i((vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(15u)) - 8);`,
  },
};

/**
 * `load_x(i)`: the i-th element, or group of as many elements as the binding has lanes.
 *
 * @param name - The binding.
 * @param binding - What it holds.
 */
export function loadFunction(name: string, { access, stored, lanes }: Binding): string {
  const type = vectorOf(scalarType(stored), lanes);
  const lines: string[] = [];
  if (isBlocks(stored)) {
    lines.push(lanes === 4 ? blockLoads[stored].four(name) : blockLoads[stored].one(name));
  } else if (!isHalf(stored)) {
    lines.push(`return ${name}[i];`);
  } else if (lanes === 4) {
    lines.push(`let w = ${name}[i];`);
    lines.push(`return ${type}(${widened(stored, "w.x")}, ${widened(stored, "w.y")});`);
  } else if (lanes === 2) {
    lines.push(`let w = ${name}[i];`, `return ${widened(stored, "w")};`);
  } else {
    const word = access === "write" ? `atomicLoad(&${name}[i >> 1u])` : `${name}[i >> 1u]`;
    lines.push(`let w = ${word};`, `return ${widened(stored, "w")}[i & 1u];`);
  }
  return `fn load_${name}(i: u32) -> ${type} { ${lines.join(" ")} }`;
}

/**
 * `store_x(i, value)`: the i-th element, or group of elements; nothing for a binding that is read only.
 *
 * @param name - The binding.
 * @param binding - What it holds.
 */
export function storeFunction(name: string, { access, stored, lanes }: Binding): string {
  if (access === "read") return "";
  const head = `fn store_${name}(i: u32, value: ${vectorOf(scalarType(stored), lanes)})`;
  if (!isHalf(stored)) return `${head} { ${name}[i] = value; }`;
  const narrow = (value: string): string => (stored === "u16" ? value : `narrow_${name}(${value})`);
  const pair = (a: string, b: string): string =>
    `(${narrow(`value.${a}`)} | (${narrow(`value.${b}`)} << 16u))`;
  const body =
    lanes === 4
      ? `${name}[i] = vec2u(${pair("x", "y")}, ${pair("z", "w")});`
      : lanes === 2
        ? `${name}[i] = ${pair("x", "y")};`
        : // The other half of the word belongs to another invocation.
          `let s = (i & 1u) * 16u; let bits = ${narrow("value")};
  atomicAnd(&${name}[i >> 1u], ~(0xffffu << s));
  atomicOr(&${name}[i >> 1u], bits << s);`;
  const rounding =
    stored === "u16"
      ? ""
      : `fn narrow_${name}(x: f32) -> u32 { ${roundTo(stored, "bitcast<u32>(x)")} }\n`;
  return `${rounding}${head} { ${body} }`;
}

/**
 * Statements that return the 16 bits nearest to an f32, ties to even. In integers: conversions of WGSL may round either
 * way and flush subnormals.
 *
 * @param stored - `f16` or `bf16`.
 * @param bits - The expression of the f32's bits.
 */
export function roundTo(stored: Stored, bits: string): string {
  if (stored === "bf16") {
    return `let u = ${bits};
  if ((u & 0x7fffffffu) > 0x7f800000u) { return (u >> 16u) | 0x40u; }
  return (u + 0x7fffu + ((u >> 16u) & 1u)) >> 16u;`;
  }
  return `let u = ${bits};
  let sign = (u >> 16u) & 0x8000u;
  let m = u & 0x7fffffffu;
  if (m > 0x7f800000u) { return sign | 0x7e00u; }
  if (m >= 0x477ff000u) { return sign | 0x7c00u; }
  if (m >= 0x38800000u) { return sign | ((m - 0x38000000u + 0xfffu + ((m >> 13u) & 1u)) >> 13u); }
  if (m < 0x33000000u) { return sign; }
  let shift = 126u - (m >> 23u);
  let fraction = (m & 0x7fffffu) | 0x800000u;
  let kept = fraction >> shift;
  let rest = fraction & ((1u << shift) - 1u);
  let middle = 1u << (shift - 1u);
  return sign | (kept + select(0u, 1u, rest > middle || (rest == middle && (kept & 1u) == 1u)));`;
}

/** `at(shape, strides, index)`: where the element of a row-major index into up to four axes lies. */
export const INDEXING: string = `fn at(shape: vec4u, strides: vec4u, index: u32) -> u32 {
  let a = index / shape.w;
  let b = a / shape.z;
  let c = b / shape.y;
  return (index - a * shape.w) * strides.w + (a - b * shape.z) * strides.z + (b - c * shape.y) * strides.y + c * strides.x;
}`;
