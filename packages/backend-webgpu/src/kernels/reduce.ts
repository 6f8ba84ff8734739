import type { PrimitiveOps } from "@transmla/core";

import { anyDType, type GpuKernel } from "../gpu.ts";
import { read, shader, write, type AnyShader } from "../shader.ts";
import { INDEXING, scalarType } from "../wgsl.ts";
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
} from "./rows.ts";
import { rowBlocks } from "./views.ts";

const reduceShader = shader({
  name: "reduce",
  options: { fn: ["sum", "max"], a: anyDType, ...rowOptions },
  excludes: excludesRows,
  bindings: ({ a, lanes }) => ({ out: write(a), a: read(a, lanes) }),
  params: rowParams,
  workgroup: rowWorkgroup,
  declarations: (options) => {
    const type = scalarType(options.a);
    const join = options.fn === "sum" ? "add" : "max";
    return [INDEXING, acrossLanes(options.lanes, type), rowReduction(options, join, type)].join(
      "\n",
    );
  },
  body: (options) => {
    const { fn, a, lanes } = options;
    const type = scalarType(a);
    const [join, begin, next] =
      fn === "sum"
        ? ["add", `${type}(0)`, "all += across_add(load_a(base + i));"]
        : ["max", "across_max(load_a(base))", "all = max(all, across_max(load_a(base + i)));"];
    return `${enterRow(options, "params.rows")}
  let base = (params.offset + at(params.shape, params.strides, row)) / ${lanes}u;
  var all = ${begin};
  for (var i = first; i < params.width / ${lanes}u; i += step) { ${next} }
  all = row_${join}(all, ${threadArguments(options)});
  if (first == 0u) { store_out(params.out_offset + row, all); }`;
  },
});

/** The sum or the maximum over the last axis. */
export const reduce: GpuKernel<PrimitiveOps["reduce"]> = (gpu, out, [a], { fn }) => {
  const width = a!.shape.at(-1)!;
  for (const block of rowBlocks(a!.shape.slice(0, -1), [a!, out])) {
    const values = rowValues(block, width);
    const plan = planRows(gpu, width, [...values.strides, values.offset]);
    const options = { fn, a: a!.dtype, ...plan };
    gpu.run(reduceShader, options, { out, a: a! }, values, rowGroups(plan, block.count));
  }
};

export const shaders: readonly AnyShader[] = [reduceShader];
