import { floats, floatsAndBlocks, type Gpu } from "../../gpu.ts";
import { read, shader, write, type AnyShader } from "../../shader.ts";
import { INDEXING } from "../../wgsl.ts";
import { factorLoads, productParams, productValues, type Layout, type Product } from "./product.ts";

const WORKGROUP = 64;

const layouts: readonly Layout[] = ["rows", "columns", "scalars"];
/** Whether four results of a row are stored at once. */
const widths = [1, 4] as const;

/** Results of one invocation: some rows of four columns each. */
const COLUMNS = 4;

const four = [0, 1, 2, 3];

/** A step of four along k, the q-th: `x0 ...` hold four elements of a row of `a` each. */
function step(rows: number, a: "rows" | "scalars", b: Layout): string {
  const indices = Array.from({ length: rows }, (_, r) => r);
  const loadA = indices.map((r) => `let x${r} = a_quad(a${r}, q);`);
  if (b === "rows") {
    // Where k is not a multiple of four, the last step meets zeros of `a`.
    const row = (j: number): string =>
      a === "rows" ? `4u * q + ${j}u` : `min(4u * q + ${j}u, params.k - 1u)`;
    const loadB = four.map((j) => `let y${j} = b_quad(b0, ${row(j)});`);
    const sums = indices.map(
      (r) => `sum${r} += x${r}.x * y0 + x${r}.y * y1 + x${r}.z * y2 + x${r}.w * y3;`,
    );
    return [...loadA, ...loadB, ...sums].join("\n    ");
  }
  const loadB = four.map((c) => `let y${c} = b_quad(b${c}, q);`);
  const sums = indices.map(
    (r) => `sum${r} += vec4f(${four.map((c) => `dot(x${r}, y${c})`).join(", ")});`,
  );
  return [...loadA, ...loadB, ...sums].join("\n    ");
}

/**
 * Each invocation computes a block of results in registers, straight from the operands' buffers: no memory is shared, no
 * invocation waits. The fastest way on a processor that imitates a GPU, and for few rows on a GPU.
 */
const directShader = shader({
  name: "matmul.direct",
  options: {
    a: floats,
    b: floatsAndBlocks,
    a_layout: ["rows", "scalars"],
    b_layout: layouts,
    rows: [1, 4, 8],
    width: widths,
  },
  bindings: ({ a, b, a_layout, b_layout, width }) => ({
    out: write(a, width),
    a: read(a, a_layout === "rows" ? 4 : 1),
    b: read(b, b_layout === "scalars" ? 1 : 4),
  }),
  params: { ...productParams, row_blocks: "u32", column_blocks: "u32", blocks: "u32" },
  workgroup: () => WORKGROUP,
  declarations: ({ a_layout, b_layout }) =>
    [INDEXING, factorLoads.a[a_layout], factorLoads.b[b_layout]].join("\n"),
  body: ({ rows, a_layout, b_layout, width }) => {
    const indices = Array.from({ length: rows }, (_, r) => r);
    const store =
      width === 4
        ? (r: number) => `store_out((to + ${r}u * params.n + column) / 4u, sum${r});`
        : (r: number) =>
            `for (var c = 0u; c < min(4u, params.n - column); c++) { store_out(to + ${r}u * params.n + column + c, sum${r}[c]); }`;
    return `let id = group * ${WORKGROUP}u + lane;
  if (id >= params.blocks) { return; }
  let row_block = id / params.column_blocks;
  let column = (id - row_block * params.column_blocks) * ${COLUMNS}u;
  let batch = row_block / params.row_blocks;
  let row = (row_block - batch * params.row_blocks) * ${rows}u;
  let a_base = params.a_offset + at(params.batch_shape, params.a_batch, batch);
  let b_base = params.b_offset + at(params.batch_shape, params.b_batch, batch);
  ${indices.map((r) => `let a${r} = a_start(a_base, min(row + ${r}u, params.m - 1u)); var sum${r} = vec4f();`).join("\n  ")}
  ${(b_layout === "rows" ? [0] : four).map((c) => `let b${c} = b_start(b_base, min(column + ${c}u, params.n - 1u));`).join("\n  ")}
  for (var q = 0u; 4u * q < params.k; q++) {
    ${step(rows, a_layout, b_layout)}
  }
  let to = params.out_offset + (batch * params.m + row) * params.n;
  ${indices.map((r) => `if (row + ${r}u < params.m) { ${store(r)} }`).join("\n  ")}`;
  },
});

/**
 * Records a product.
 *
 * @param gpu - Where it runs.
 * @param product - What it computes.
 */
export function directProduct(gpu: Gpu, product: Product): void {
  const { m, n, batches, a, b, out, outOffset } = product;
  const rows = m === 1 ? 1 : m <= 4 ? 4 : 8;
  const row_blocks = Math.ceil(m / rows);
  const column_blocks = Math.ceil(n / COLUMNS);
  const blocks = batches * row_blocks * column_blocks;
  const width = n % 4 === 0 && outOffset % 4 === 0 ? 4 : 1;
  const options = {
    a: a.operand.dtype,
    b: b.operand.dtype,
    a_layout: a.layout === "rows" ? "rows" : "scalars",
    b_layout: b.layout,
    rows,
    width,
  } as const;
  const values = { ...productValues(product), row_blocks, column_blocks, blocks };
  const buffers = { out, a: a.operand, b: b.operand };
  gpu.run(directShader, options, buffers, values, Math.ceil(blocks / WORKGROUP));
}

export const shaders: readonly AnyShader[] = [directShader];
