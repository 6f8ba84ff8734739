import type { FusedOps } from "@transmla/core";

import { floats, type Gpu, type GpuKernel, type GpuOperand } from "../gpu.ts";
import { read, shader, write, type AnyShader } from "../shader.ts";
import { INDEXING } from "../wgsl.ts";
import {
  acrossLanes,
  enterRow,
  excludesRows,
  planRows,
  rowGroups,
  rowOptions,
  rowParams,
  rowReduction,
  rowValues,
  rowWorkgroup,
  threadArguments,
  type RowOptions,
} from "./rows.ts";
import { rowBlocks } from "./views.ts";

/** Where the row begins in `x` and in the result, and how many loads it takes. */
const findRow = (lanes: number): string => `
  let base = (params.offset + at(params.shape, params.strides, row)) / ${lanes}u;
  let loads = params.width / ${lanes}u;
  let to = params.out_offset / ${lanes}u + row * loads;`;

const softmaxShader = shader({
  name: "softmax",
  options: { x: floats, ...rowOptions },
  excludes: excludesRows,
  bindings: ({ x, lanes }) => ({ out: write(x, lanes), x: read(x, lanes) }),
  params: rowParams,
  workgroup: rowWorkgroup,
  declarations: (options) =>
    [
      INDEXING,
      acrossLanes(options.lanes, "f32"),
      rowReduction(options, "add", "f32"),
      rowReduction(options, "max", "f32"),
    ].join("\n"),
  body: (options) => `${enterRow(options, "params.rows")}${findRow(options.lanes)}
  var largest = across_max(load_x(base));
  for (var i = first; i < loads; i += step) { largest = max(largest, across_max(load_x(base + i))); }
  largest = row_max(largest, ${threadArguments(options)});
  var sum = 0.0;
  for (var i = first; i < loads; i += step) { sum += across_add(exp(load_x(base + i) - largest)); }
  sum = row_add(sum, ${threadArguments(options)});
  for (var i = first; i < loads; i += step) { store_out(to + i, exp(load_x(base + i) - largest) / sum); }`,
});

const rmsNormShader = shader({
  name: "rmsNorm",
  options: { x: floats, weight: floats, ...rowOptions },
  excludes: excludesRows,
  bindings: ({ x, weight, lanes }) => ({
    out: write(x, lanes),
    x: read(x, lanes),
    weight: read(weight, lanes),
  }),
  params: { ...rowParams, weight_offset: "u32", eps: "f32", shift: "f32" },
  workgroup: rowWorkgroup,
  declarations: (options) =>
    [INDEXING, acrossLanes(options.lanes, "f32"), rowReduction(options, "add", "f32")].join("\n"),
  body: (options) => `${enterRow(options, "params.rows")}${findRow(options.lanes)}
  var sum = 0.0;
  for (var i = first; i < loads; i += step) { let v = load_x(base + i); sum += across_add(v * v); }
  sum = row_add(sum, ${threadArguments(options)});
  let factor = inverseSqrt(sum / f32(params.width) + params.eps);
  let weights = params.weight_offset / ${options.lanes}u;
  for (var i = first; i < loads; i += step) {
    store_out(to + i, load_x(base + i) * factor * (load_weight(weights + i) + params.shift));
  }`,
});

/** Visits the rows of `x` and the result, which is dense. */
function forRows(
  gpu: Gpu,
  out: GpuOperand,
  x: GpuOperand,
  steps: readonly number[],
  visit: (plan: RowOptions, values: RowValues, workgroups: number) => void,
): void {
  const width = x.shape.at(-1)!;
  for (const block of rowBlocks(x.shape.slice(0, -1), [x, out])) {
    const values = rowValues(block, width);
    const plan = planRows(gpu, width, [
      ...values.strides,
      values.offset,
      values.out_offset,
      ...steps,
    ]);
    visit(plan, values, rowGroups(plan, block.count));
  }
}

type RowValues = ReturnType<typeof rowValues>;

/** `exp(x - max) / sum(exp(x - max))` over the last axis. */
export const softmax: GpuKernel<FusedOps["softmax"]> = (gpu, out, [x]) => {
  forRows(gpu, out, x!, [], (plan, values, workgroups) => {
    gpu.run(softmaxShader, { x: x!.dtype, ...plan }, { out, x: x! }, values, workgroups);
  });
};

/** `x / sqrt(mean(x²) + eps) * (weight + offset)` over the last axis. */
export const rmsNorm: GpuKernel<FusedOps["rmsNorm"]> = (gpu, out, [x, weight], attributes) => {
  forRows(gpu, out, x!, [weight!.offset], (plan, values, workgroups) => {
    const options = { x: x!.dtype, weight: weight!.dtype, ...plan };
    const { eps, offset: shift } = attributes;
    const parameters = { ...values, weight_offset: weight!.offset, eps, shift };
    gpu.run(rmsNormShader, options, { out, x: x!, weight: weight! }, parameters, workgroups);
  });
};

export const shaders: readonly AnyShader[] = [softmaxShader, rmsNormShader];
