import { floats, floatsAndBlocks, type Gpu } from "../../gpu.ts";
import { read, shader, write, type AnyShader } from "../../shader.ts";
import { INDEXING } from "../../wgsl.ts";
import { factorLoads, productParams, productValues, type Layout, type Product } from "./product.ts";

/** Rows and columns of the block of results of a workgroup; each of its 16 x 16 invocations has 4 x 4 of them. */
const TILE = 64;
/** Groups of four along k that a workgroup holds at once. */
const DEPTH = 4;
/** Where rows of the tile are loaded side by side, they begin one group apart from a multiple of the banks. */
const PITCH = DEPTH + 1;
const WORKGROUP = 256;

const layouts: readonly Layout[] = ["rows", "columns", "scalars"];
const four = [0, 1, 2, 3];

/** Loads of one group of four of each tile by each invocation. Beyond k there are zeros. */
function fillTiles(b: Layout): string {
  const loadA = `a_tile[(lane / ${DEPTH}u) * ${PITCH}u + lane % ${DEPTH}u] = select(vec4f(), a_quad(a_from, q), 4u * q < params.k);`;
  if (b === "rows") {
    return `${loadA}
    let depth = start + lane / 16u;
    b_tile[lane] = select(vec4f(), b_quad(b_from, min(depth, params.k - 1u)), depth < params.k);`;
  }
  return `${loadA}
    b_tile[(lane / ${DEPTH}u) * ${PITCH}u + lane % ${DEPTH}u] = select(vec4f(), b_quad(b_from, q), 4u * q < params.k);`;
}

/** Multiplies one group of four along k. */
function multiply(b: Layout): string {
  const loadA = four.map((r) => `let x${r} = a_tile[(y + ${16 * r}u) * ${PITCH}u + d];`);
  if (b === "rows") {
    const loadB = four.map((j) => `let y${j} = b_tile[(d * 4u + ${j}u) * 16u + x];`);
    const sums = four.map(
      (r) => `sum${r} += x${r}.x * y0 + x${r}.y * y1 + x${r}.z * y2 + x${r}.w * y3;`,
    );
    return [...loadA, ...loadB, ...sums].join("\n      ");
  }
  const loadB = four.map((c) => `let y${c} = b_tile[(x + ${16 * c}u) * ${PITCH}u + d];`);
  const sums = four.map(
    (r) => `sum${r} += vec4f(${four.map((c) => `dot(x${r}, y${c})`).join(", ")});`,
  );
  return [...loadA, ...loadB, ...sums].join("\n      ");
}

/**
 * A workgroup copies tiles of both matrices to its own memory, where each element is read by 16 invocations; each of
 * these keeps 4 x 4 results in registers, so that a group of four loads serves 16 products.
 */
const tiledShader = shader({
  name: "matmul.tiled",
  options: { a: floats, b: floatsAndBlocks, a_layout: ["rows", "scalars"], b_layout: layouts },
  bindings: ({ a, b, a_layout, b_layout }) => ({
    out: write(a),
    a: read(a, a_layout === "rows" ? 4 : 1),
    b: read(b, b_layout === "scalars" ? 1 : 4),
  }),
  params: { ...productParams, row_blocks: "u32", column_blocks: "u32" },
  workgroup: () => WORKGROUP,
  declarations: ({ a_layout, b_layout }) => `${INDEXING}
${factorLoads.a[a_layout]}
${factorLoads.b[b_layout]}
var<workgroup> a_tile: array<vec4f, ${TILE * PITCH}>;
var<workgroup> b_tile: array<vec4f, ${TILE * PITCH}>;`,
  body: ({ b_layout }) => {
    const column = (c: number): string =>
      b_layout === "rows" ? `x * 4u + ${c}u` : `x + ${16 * c}u`;
    const stores = four.map(
      (c) =>
        `if (column + ${column(c)} < params.n) { store_out(to + ${column(c)}, sums[r][${c}]); }`,
    );
    return `let row_block = group / params.column_blocks;
  let column = (group - row_block * params.column_blocks) * ${TILE}u;
  let batch = row_block / params.row_blocks;
  let row = (row_block - batch * params.row_blocks) * ${TILE}u;
  let a_base = params.a_offset + at(params.batch_shape, params.a_batch, batch);
  let b_base = params.b_offset + at(params.batch_shape, params.b_batch, batch);
  let y = lane / 16u;
  let x = lane % 16u;
  let a_from = a_start(a_base, min(row + lane / ${DEPTH}u, params.m - 1u));
  let b_from = b_start(b_base, ${b_layout === "rows" ? "min(column + (lane % 16u) * 4u, params.n - 4u)" : `min(column + lane / ${DEPTH}u, params.n - 1u)`});
  ${four.map((r) => `var sum${r} = vec4f();`).join(" ")}
  for (var start = 0u; start < params.k; start += ${4 * DEPTH}u) {
    let q = start / 4u + lane % ${DEPTH}u;
    ${fillTiles(b_layout)}
    workgroupBarrier();
    for (var d = 0u; d < ${DEPTH}u; d++) {
      ${multiply(b_layout)}
    }
    workgroupBarrier();
  }
  let sums = array<vec4f, 4>(sum0, sum1, sum2, sum3);
  for (var r = 0u; r < 4u; r++) {
    let to_row = row + y + 16u * r;
    if (to_row < params.m) {
      let to = params.out_offset + (batch * params.m + to_row) * params.n + column;
      ${stores.join("\n      ")}
    }
  }`;
  },
});

/**
 * Records a product.
 *
 * @param gpu - Where it runs.
 * @param product - What it computes.
 */
export function tiledProduct(gpu: Gpu, product: Product): void {
  const { m, n, batches, a, b, out } = product;
  const row_blocks = Math.ceil(m / TILE);
  const column_blocks = Math.ceil(n / TILE);
  const options = {
    a: a.operand.dtype,
    b: b.operand.dtype,
    a_layout: a.layout === "rows" ? "rows" : "scalars",
    b_layout: b.layout,
  } as const;
  const values = { ...productValues(product), row_blocks, column_blocks };
  const buffers = { out, a: a.operand, b: b.operand };
  gpu.run(tiledShader, options, buffers, values, batches * row_blocks * column_blocks);
}

export const shaders: readonly AnyShader[] = [tiledShader];
