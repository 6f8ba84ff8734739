import {
  isDense,
  sizeOf,
  type BinaryFunction,
  type DType,
  type FusedOps,
  type GateFunction,
  type PrimitiveOps,
} from "@transmla/core";

import { anyDType, floats, type Gpu, type GpuKernel, type GpuOperand } from "../gpu.ts";
import { read, shader, write, type AnyShader, type Lanes } from "../shader.ts";
import { INDEXING, isHalf, scalarType } from "../wgsl.ts";
import { GATES, UNARY, unaryFunctions } from "./functions.ts";
import { four, ownsWholeWords, rowBlocks, viewOf } from "./views.ts";

const WORKGROUP = 256;

/** Elements of one invocation: words of two 16-bit elements where the result allows, else one element. */
type Width = Extract<Lanes, 1 | 2>;

/** How elements are found: `dense` needs no division. */
const layouts = ["dense", "strided"] as const;
const widths: readonly Width[] = [1, 2];

const pairsOfFullWords = ({ out, width }: { out: DType; width: Width }): boolean =>
  width === 2 && !isHalf(out);

/** Statements that store `value(i)` for the elements of this invocation; `value` is a function of the flat index. */
function storeValues(width: Width, layout: "dense" | "strided"): string {
  const index = `let i = group * ${WORKGROUP}u + lane;`;
  if (width === 1) {
    const place = layout === "dense" ? "i" : "at(params.shape, params.out_strides, i)";
    return `${index}
  if (i >= params.size) { return; }
  store_out(params.out_offset + ${place}, value(i));`;
  }
  return `${index}
  if (2u * i >= params.size) { return; }
  let first = value(2u * i);
  let second = value(min(2u * i + 1u, params.size - 1u));
  store_out((params.out_offset >> 1u) + i, vec2f(first, second));`;
}

/** Parameters of every elementwise shader. */
const common = { shape: "vec4u", out_strides: "vec4u", size: "u32", out_offset: "u32" } as const;

/** Where operand `name` holds the element of a flat index. */
function place(name: string, layout: "dense" | "strided"): string {
  const index = layout === "dense" ? "i" : `at(params.shape, params.${name}_strides, i)`;
  return `params.${name}_offset + ${index}`;
}

const fillShader = shader({
  name: "fill",
  options: { out: anyDType, width: widths, whole: [false, true] },
  excludes: (options) =>
    pairsOfFullWords(options) || (options.whole && scalarType(options.out) === "f32"),
  bindings: ({ out, width }) => ({ out: write(out, width) }),
  params: {
    ...common,
    last: "u32",
    start: "f32",
    step: "f32",
    whole_start: "i32",
    whole_step: "i32",
  },
  workgroup: () => WORKGROUP,
  declarations: ({ out, whole }) => {
    const type = scalarType(out);
    const result = whole
      ? `bitcast<${type}>(params.whole_start + params.whole_step * i32(i % params.last))`
      : `${type}(fma(params.step, f32(i % params.last), params.start))`;
    return `fn value(i: u32) -> ${type} { return ${result}; }`;
  },
  body: ({ width }) => storeValues(width, "dense"),
});

const unaryShader = shader({
  name: "unary",
  options: { fn: unaryFunctions, out: floats, width: widths, layout: layouts },
  excludes: pairsOfFullWords,
  bindings: ({ out, width }) => ({ out: write(out, width), a: read(out) }),
  params: { ...common, a_strides: "vec4u", a_offset: "u32", scale: "f32", shift: "f32" },
  workgroup: () => WORKGROUP,
  declarations: ({ fn, layout }) => `${INDEXING}\n${UNARY[fn]}
fn value(i: u32) -> f32 { return ${fn}_of(fma(params.scale, load_a(${place("a", layout)}), params.shift)); }`,
  body: ({ width, layout }) => storeValues(width, layout),
});

/** Functions of two arguments, by expression. */
const binaryExpressions: Readonly<Record<BinaryFunction, string>> = {
  add: "a + b",
  sub: "a - b",
  mul: "a * b",
  div: "a / b",
  max: "max(a, b)",
  min: "min(a, b)",
  equal: "select(zero, one, a == b)",
  less: "select(zero, one, a < b)",
};

const binaryShader = shader({
  name: "binary",
  options: {
    fn: Object.keys(binaryExpressions) as BinaryFunction[],
    out: anyDType,
    width: widths,
    layout: layouts,
  },
  excludes: pairsOfFullWords,
  bindings: ({ out, width }) => ({ out: write(out, width), a: read(out), b: read(out) }),
  params: {
    ...common,
    a_strides: "vec4u",
    b_strides: "vec4u",
    a_offset: "u32",
    b_offset: "u32",
  },
  workgroup: () => WORKGROUP,
  declarations: ({ fn, out, layout }) => {
    const type = scalarType(out);
    return `${INDEXING}
fn value(i: u32) -> ${type} {
  let a = load_a(${place("a", layout)});
  let b = load_b(${place("b", layout)});
  const zero = ${type}(0);
  const one = ${type}(1);
  return ${binaryExpressions[fn]};
}`;
  },
  body: ({ width, layout }) => storeValues(width, layout),
});

const gateShader = shader({
  name: "gatedActivation",
  options: {
    fn: Object.keys(GATES) as GateFunction[],
    out: floats,
    width: widths,
    layout: layouts,
  },
  excludes: pairsOfFullWords,
  bindings: ({ out, width }) => ({ out: write(out, width), a: read(out), b: read(out) }),
  params: binaryShader.params,
  workgroup: () => WORKGROUP,
  declarations: ({ fn, layout }) => `${INDEXING}\n${GATES[fn]}
fn value(i: u32) -> f32 { return ${fn}_of(load_a(${place("a", layout)})) * load_b(${place("b", layout)}); }`,
  body: ({ width, layout }) => storeValues(width, layout),
});

/** What the shaders need to know of the operands, which have one shape of at most four axes. */
function describe(out: GpuOperand, inputs: readonly GpuOperand[]) {
  const size = sizeOf(out.shape);
  const width: Width = isHalf(out.dtype) && ownsWholeWords(out) ? 2 : 1;
  const dense = [out, ...inputs].every(({ shape, strides }) => isDense(shape, strides));
  const layout = dense ? ("dense" as const) : ("strided" as const);
  const values = {
    shape: four(out.shape, 1),
    out_strides: four(out.strides, 0),
    size,
    out_offset: out.offset,
  };
  return { width, layout, values, workgroups: Math.ceil(size / (WORKGROUP * width)) };
}

/** A ramp along the last axis. */
export const fill: GpuKernel<PrimitiveOps["fill"]> = (gpu, out, _, { start, step }) => {
  const size = sizeOf(out.shape);
  const { width, values, workgroups } = describe(viewOf(out, { shape: [size], strides: [1] }), []);
  // f32 holds integers up to 2^24 only.
  const whole =
    scalarType(out.dtype) !== "f32" && Number.isInteger(start) && Number.isInteger(step);
  const last = out.shape.at(-1) ?? 1;
  const ramp = { start, step, whole_start: start, whole_step: step, last };
  const options = { out: out.dtype, width, whole };
  gpu.run(fillShader, options, { out }, { ...values, ...ramp }, workgroups);
};

/** `fn(scale * a + shift)`. */
export const unary: GpuKernel<PrimitiveOps["unary"]> = (gpu, out, [a], { fn, scale, shift }) => {
  const { width, layout, values, workgroups } = describe(out, [a!]);
  const parameters = {
    ...values,
    a_strides: four(a!.strides, 0),
    a_offset: a!.offset,
    scale,
    shift,
  };
  gpu.run(
    unaryShader,
    { fn, out: out.dtype, width, layout },
    { out, a: a! },
    parameters,
    workgroups,
  );
};

/** Runs one of the two shaders of two inputs. */
function runBinary(
  gpu: Gpu,
  out: GpuOperand,
  [a, b]: readonly GpuOperand[],
  fn: { readonly binary: BinaryFunction } | { readonly gate: GateFunction },
): void {
  const { width, layout, values, workgroups } = describe(out, [a!, b!]);
  const parameters = {
    ...values,
    a_strides: four(a!.strides, 0),
    b_strides: four(b!.strides, 0),
    a_offset: a!.offset,
    b_offset: b!.offset,
  };
  const rest = { out: out.dtype, width, layout };
  const buffers = { out, a: a!, b: b! };
  if ("binary" in fn)
    gpu.run(binaryShader, { fn: fn.binary, ...rest }, buffers, parameters, workgroups);
  else gpu.run(gateShader, { fn: fn.gate, ...rest }, buffers, parameters, workgroups);
}

/** `fn(a, b)` of operands of one shape. */
export const binary: GpuKernel<PrimitiveOps["binary"]> = (gpu, out, inputs, { fn }) => {
  runBinary(gpu, out, inputs, { binary: fn });
};

/** `fn(gate) * up`. */
export const gatedActivation: GpuKernel<FusedOps["gatedActivation"]> = (
  gpu,
  out,
  inputs,
  { fn },
) => {
  const operands = [out, ...inputs];
  for (const { shape, strides, offsets } of rowBlocks(out.shape, operands)) {
    const [block, ...rest] = operands.map((operand, i) =>
      viewOf(operand, { shape, strides: strides[i]!, offset: offsets[i]! }),
    );
    runBinary(gpu, block!, rest, { gate: fn });
  }
};

export const shaders: readonly AnyShader[] = [fillShader, unaryShader, binaryShader, gateShader];
