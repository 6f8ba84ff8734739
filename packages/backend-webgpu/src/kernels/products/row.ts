import { floats, floatsAndBlocks, type Gpu, type GpuOperand } from "../../gpu.ts";
import { read, shader, write, type AnyShader } from "../../shader.ts";
import { INDEXING } from "../../wgsl.ts";
import { rowReduction, threadArguments } from "../rows.ts";
import { factorLoads, productParams, productValues, type Product } from "./product.ts";

/** Results of one unit of work: their rows of `b` are read side by side, so that several loads are under way. */
const COLUMNS = 4;
/** Units of one workgroup where each invocation has one of its own. */
const UNITS = 64;

/** `a` and `b` are loaded along k. */
const bLayouts = ["columns", "scalars"] as const;

/**
 * Rows times the transpose of a matrix whose rows lie along k, as weights do: the invocations of a workgroup share out
 * the axis k and add up what they have. With `experts` each row has the matrix that its index names.
 */
const rowShader = shader({
  name: "matmul.row",
  options: {
    a: floats,
    b: floatsAndBlocks,
    a_layout: ["rows", "scalars"],
    b_layout: bLayouts,
    experts: [false, true],
    threads: [1, 64],
    subgroups: [false, true],
  },
  excludes: ({ threads, subgroups }) => threads === 1 && subgroups,
  bindings: ({ a, b, a_layout, b_layout, experts }) => ({
    out: write(a),
    a: read(a, a_layout === "rows" ? 4 : 1),
    b: read(b, b_layout === "columns" ? 4 : 1),
    ...(experts ? { ids: read("u32") } : {}),
  }),
  params: {
    ...productParams,
    ids_batch: "vec4u",
    units: "u32",
    column_blocks: "u32",
    ids_offset: "u32",
    expert_stride: "u32",
  },
  workgroup: ({ threads }) => (threads === 1 ? UNITS : threads),
  declarations: (options) =>
    [
      INDEXING,
      factorLoads.a[options.a_layout],
      factorLoads.b[options.b_layout],
      rowReduction(options, "add", "vec4<f32>"),
    ].join("\n"),
  body: (options) => {
    const { experts, threads } = options;
    const enter =
      threads === 1
        ? `let unit = group * ${UNITS}u + lane; if (unit >= params.units) { return; } const first = 0u;`
        : "let unit = group; let first = lane;";
    const expert = experts
      ? " + load_ids(params.ids_offset + at(params.batch_shape, params.ids_batch, batch)) * params.expert_stride"
      : "";
    const columns = [0, 1, 2, 3];
    return `${enter}
  let row = unit / params.column_blocks;
  let column = (unit - row * params.column_blocks) * ${COLUMNS}u;
  let batch = row / params.m;
  let a_base = params.a_offset + at(params.batch_shape, params.a_batch, batch);
  let b_base = params.b_offset + at(params.batch_shape, params.b_batch, batch)${expert};
  let x_start = a_start(a_base, row - batch * params.m);
  ${columns.map((c) => `let y${c} = b_start(b_base, min(column + ${c}u, params.n - 1u));`).join(" ")}
  var sum = vec4f();
  for (var q = first; 4u * q < params.k; q += ${threads}u) {
    let x = a_quad(x_start, q);
    sum += vec4f(${columns.map((c) => `dot(x, b_quad(y${c}, q))`).join(", ")});
  }
  sum = row_add(sum, ${threadArguments(options)});
  if (first == 0u) {
    for (var c = 0u; c < min(4u, params.n - column); c++) {
      store_out(params.out_offset + row * params.n + column + c, sum[c]);
    }
  }`;
  },
});

/** The experts of rows: for each row, which matrix. */
export interface Experts {
  readonly ids: GpuOperand;
  readonly batchStrides: readonly number[];
  readonly offset: number;
  /** Elements from one matrix to the next. */
  readonly stride: number;
}

/**
 * Records a product.
 *
 * @param gpu - Where it runs.
 * @param product - What it computes; `b` is not loaded along its rows.
 * @param experts - Which matrices, where there are several.
 */
export function rowProduct(gpu: Gpu, product: Product, experts?: Experts): void {
  const { m, n, batches, a, b, out } = product;
  const { cooperative, subgroups } = gpu.capabilities;
  const threads = cooperative ? 64 : 1;
  const column_blocks = Math.ceil(n / COLUMNS);
  const units = batches * m * column_blocks;
  const options = {
    a: a.operand.dtype,
    b: b.operand.dtype,
    a_layout: a.layout === "rows" ? "rows" : "scalars",
    b_layout: b.layout === "columns" ? "columns" : "scalars",
    experts: experts !== undefined,
    threads,
    subgroups: subgroups && threads > 1,
  } as const;
  const values = {
    ...productValues(product),
    ids_batch: experts?.batchStrides ?? [0, 0, 0, 0],
    units,
    column_blocks,
    ids_offset: experts?.offset ?? 0,
    expert_stride: experts?.stride ?? 0,
  };
  const buffers = { out, a: a.operand, b: b.operand, ids: experts?.ids ?? b.operand };
  gpu.run(rowShader, options, buffers, values, threads === 1 ? Math.ceil(units / UNITS) : units);
}

export const shaders: readonly AnyShader[] = [rowShader];
