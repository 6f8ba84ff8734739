import { isDense, sizeOf, type DType, type PrimitiveOps } from "@transmla/core";

import { anyDType, type GpuKernel } from "../gpu.ts";
import { read, shader, write, type AnyShader } from "../shader.ts";
import { INDEXING, isBlocks, isHalf, roundTo, scalarType, type Stored } from "../wgsl.ts";
import { writeBlocks } from "./blocks.ts";
import { four, ownsWholeWords } from "./views.ts";

const WORKGROUP = 256;

/** The type by which the bits of a dtype are moved. */
const bitsOf = (dtype: DType): Stored => (isBlocks(dtype) ? dtype : isHalf(dtype) ? "u16" : "u32");

/** Functions between the bits of dtypes. Integer arithmetic throughout: it keeps subnormals and NaN, and rounds once. */
const CONVERSIONS = `
fn f32_from_f16(h: u32) -> u32 {
  let sign = (h & 0x8000u) << 16u;
  let exponent = (h >> 10u) & 0x1fu;
  let fraction = h & 0x3ffu;
  if (exponent == 31u) { return sign | 0x7f800000u | (fraction << 13u); }
  if (exponent > 0u) { return sign | ((exponent + 112u) << 23u) | (fraction << 13u); }
  if (fraction == 0u) { return sign; }
  let shift = countLeadingZeros(fraction) - 21u;
  return sign | ((113u - shift) << 23u) | (((fraction << shift) & 0x3ffu) << 13u);
}
fn f16_from_f32(bits: u32) -> u32 { ${roundTo("f16", "bits")} }
fn bf16_from_f32(bits: u32) -> u32 { ${roundTo("bf16", "bits")} }
fn rounded(m: u32, digits: u32) -> u32 {
  let zeros = countLeadingZeros(m);
  if (zeros + digits >= 32u) { return m; }
  let shift = 32u - zeros - digits;
  let kept = m >> shift;
  let rest = m & ((1u << shift) - 1u);
  let middle = 1u << (shift - 1u);
  let up = rest > middle || (rest == middle && (kept & 1u) == 1u);
  if (up && kept + 1u == (1u << digits) && zeros == 0u) { return 0xffffffffu; }
  return (kept + select(0u, 1u, up)) << shift;
}
fn f32_from_magnitude(sign: u32, m: u32, digits: u32) -> u32 {
  let whole = rounded(m, digits);
  if (whole == 0xffffffffu) { return sign | 0x4f800000u; }
  if (whole == 0u) { return sign; }
  let zeros = countLeadingZeros(whole);
  return sign | ((158u - zeros) << 23u) | (((whole << zeros) >> 8u) & 0x7fffffu);
}`;

/** Significant binary digits of the dtypes that hold floats. */
const digits: Partial<Record<DType, number>> = { f32: 24, f16: 11, bf16: 8 };

/** The bits of an element in another dtype. */
function converted(from: DType, to: DType, bits: string): string {
  const integers = (dtype: DType): boolean => dtype === "i32" || dtype === "u32";
  if (isBlocks(from)) return `bitcast<u32>(${bits})`;
  if (from === to || (integers(from) && integers(to))) return bits;
  const narrowed = (f32: string): string => (to === "f32" ? f32 : `${to}_from_f32(${f32})`);
  if (from === "u32") return narrowed(`f32_from_magnitude(0u, ${bits}, ${digits[to]}u)`);
  if (from === "i32") {
    const magnitude = `select(${bits}, 0u - ${bits}, ${bits} >= 0x80000000u)`;
    return narrowed(`f32_from_magnitude(${bits} & 0x80000000u, ${magnitude}, ${digits[to]}u)`);
  }
  const f32 =
    from === "f16" ? `f32_from_f16(${bits})` : from === "bf16" ? `(${bits} << 16u)` : bits;
  if (to === "i32") return `bitcast<u32>(i32(bitcast<f32>(${f32})))`;
  return to === "u32" ? `u32(bitcast<f32>(${f32}))` : narrowed(f32);
}

/** The bits of `old + new`, both in `dtype`. */
function accumulated(dtype: DType): string {
  const type = scalarType(dtype);
  const widened = (bits: string): string => `bitcast<${type}>(${converted(dtype, type, bits)})`;
  return converted(type, dtype, `bitcast<u32>(${widened("before")} + ${widened("bits")})`);
}

const copyShader = shader({
  name: "copy",
  options: {
    out: anyDType,
    a: [...anyDType, "q8", "q4"] as const,
    pairs: [false, true],
    dense: [false, true],
    accumulate: [false, true],
  },
  // Core widens blocks to f32 only.
  excludes: ({ out, a, pairs, dense, accumulate }) =>
    (isBlocks(a) && (out !== "f32" || accumulate)) ||
    (pairs && !isHalf(out)) ||
    (accumulate && (pairs || dense)),
  bindings: ({ out, a, pairs }) => ({
    out: write(bitsOf(out), pairs ? 2 : 1),
    a: read(bitsOf(a)),
  }),
  params: {
    shape: "vec4u",
    out_strides: "vec4u",
    a_strides: "vec4u",
    size: "u32",
    out_offset: "u32",
    a_offset: "u32",
  },
  workgroup: () => WORKGROUP,
  declarations: ({ out, a, dense }) => `${INDEXING}${CONVERSIONS}
fn value(i: u32) -> u32 {
  let bits = load_a(params.a_offset + ${dense ? "i" : "at(params.shape, params.a_strides, i)"});
  return ${converted(a, out, "bits")};
}`,
  body: ({ out, pairs, dense, accumulate }) => {
    if (pairs) {
      return `let i = group * ${WORKGROUP}u + lane;
  if (2u * i >= params.size) { return; }
  let second = value(min(2u * i + 1u, params.size - 1u));
  store_out((params.out_offset >> 1u) + i, vec2u(value(2u * i), second));`;
    }
    return `let i = group * ${WORKGROUP}u + lane;
  if (i >= params.size) { return; }
  let to = params.out_offset + ${dense ? "i" : "at(params.shape, params.out_strides, i)"};
  let bits = value(i);
  ${accumulate ? `let before = load_out(to);\n  store_out(to, ${accumulated(out)});` : "store_out(to, bits);"}`;
  },
});

/** Copies elements of any view to any window, converting them. */
export const copy: GpuKernel<PrimitiveOps["copy"]> = (gpu, out, [a], { accumulate = false }) => {
  if (isBlocks(out.dtype)) {
    writeBlocks(gpu, out, a!);
    return;
  }
  const size = sizeOf(out.shape);
  const pairs = !accumulate && isHalf(out.dtype) && ownsWholeWords(out);
  const dense = !accumulate && isDense(out.shape, out.strides) && isDense(a!.shape, a!.strides);
  const values = {
    shape: four(out.shape, 1),
    out_strides: four(out.strides, 0),
    a_strides: four(a!.strides, 0),
    size,
    out_offset: out.offset,
    a_offset: a!.offset,
  };
  const workgroups = Math.ceil(size / (pairs ? 2 * WORKGROUP : WORKGROUP));
  const options = { out: out.dtype, a: a!.dtype, pairs, dense, accumulate };
  gpu.run(copyShader, options, { out, a: a! }, values, workgroups);
};

export const shaders: readonly AnyShader[] = [copyShader];
