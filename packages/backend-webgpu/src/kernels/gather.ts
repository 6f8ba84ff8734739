import type { PrimitiveOps } from "@transmla/core";

import { type GpuKernel } from "../gpu.ts";
import { read, shader, write, type AnyShader } from "../shader.ts";
import { INDEXING, isBlocks, isHalf } from "../wgsl.ts";
import { rowBlocks } from "./views.ts";

const WORKGROUP = 64;

const gatherShader = shader({
  name: "gather",
  options: { table: ["u16", "u32", "q8", "q4"], lanes: [1, 4] },
  bindings: ({ table, lanes }) => ({
    out: write(isBlocks(table) ? "f32" : table, lanes),
    table: read(table, lanes),
    rows: read("u32"),
  }),
  params: {
    shape: "vec4u",
    table_strides: "vec4u",
    rows_strides: "vec4u",
    size: "u32",
    table_offset: "u32",
    rows_offset: "u32",
    out_offset: "u32",
    count: "u32",
    height: "u32",
    width: "u32",
    row_stride: "u32",
    column_stride: "u32",
  },
  workgroup: () => WORKGROUP,
  declarations: () => INDEXING,
  // Sizes and strides of columns are in units of lanes.
  body: ({ table, lanes }) => {
    const type = isBlocks(table) ? "f32" : "u32";
    return `let i = group * ${WORKGROUP}u + lane;
  if (i >= params.size) { return; }
  let row = i / params.width;
  let column = i - row * params.width;
  let batch = row / params.count;
  let id = load_rows(params.rows_offset + at(params.shape, params.rows_strides, batch) + row - batch * params.count);
  let base = params.table_offset + at(params.shape, params.table_strides, batch);
  var value = ${lanes === 4 ? `vec4<${type}>` : type}();
  if (id < params.height) {
    value = load_table((base + id * params.row_stride) / ${lanes}u + column * params.column_stride);
  }
  store_out(params.out_offset + i, value);`;
  },
});

/** Rows of a table by index. Elements are moved as bits, or widened where they are blocks. */
export const gather: GpuKernel<PrimitiveOps["gather"]> = (gpu, out, [table, rows]) => {
  const [height, width] = table!.shape.slice(-2) as [number, number];
  const [row_stride, column_stride] = table!.strides.slice(-2) as [number, number];
  const count = rows!.shape.at(-1)!;
  for (const block of rowBlocks(table!.shape.slice(0, -2), [table!, rows!, out])) {
    const [table_strides, rows_strides] = block.strides as [number[], number[]];
    const [table_offset, rows_offset, out_offset] = block.offsets as [number, number, number];
    const steps = [width, row_stride, table_offset, out_offset, ...table_strides];
    const lanes =
      (column_stride === 1 || width === 1) && steps.every((step) => step % 4 === 0) ? 4 : 1;
    const size = (block.count * count * width) / lanes;
    const values = {
      shape: block.shape,
      table_strides,
      rows_strides,
      size,
      table_offset,
      rows_offset,
      out_offset: out_offset / lanes,
      count,
      height,
      width: width / lanes,
      row_stride,
      column_stride,
    };
    const { dtype } = table!;
    const options = {
      table: isBlocks(dtype) ? dtype : isHalf(dtype) ? "u16" : "u32",
      lanes,
    } as const;
    const buffers = { out, table: table!, rows: rows! };
    gpu.run(gatherShader, options, buffers, values, Math.ceil(size / WORKGROUP));
  }
};

export const shaders: readonly AnyShader[] = [gatherShader];
