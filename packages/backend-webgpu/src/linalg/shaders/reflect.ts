import type { GpuOperand } from "../../gpu.ts";
import { read, shader, write, type AnyShader } from "../../shader.ts";
import { lanesOfAGroup, type Workspace } from "../workspace.ts";
import { PANEL, sharesOf, type Factored } from "./panel.ts";

/** Columns that a workgroup changes. */
const COLUMNS_A_GROUP = 4;

const reflect = shader({
  name: "qr reflect",
  options: { lanes: lanesOfAGroup, inverse: [false, true] },
  bindings: () => ({
    columns: write("f32", 4),
    reflectors: read("f32", 4),
    triangles: read("f32"),
  }),
  params: { first: "u32", stride: "u32", start_column: "u32" },
  workgroup: ({ lanes }) => lanes,
  declarations: ({ lanes }) => `
var<workgroup> partial: array<vec4f, ${PANEL * sharesOf(lanes)}>;
var<workgroup> products: array<vec4f, ${PANEL}>;
var<workgroup> weights: array<vec4f, ${PANEL}>;`,
  body: ({ lanes, inverse }) => {
    const shares = sharesOf(lanes);
    return `
let start = params.first / 4u;
let column = (params.start_column + group * ${COLUMNS_A_GROUP}u) * params.stride;
for (var item = lane; item < ${PANEL * shares}u; item += ${lanes}u) {
  let reflector = (params.first + item / ${shares}u) * params.stride;
  var sum = vec4f(0.0);
  for (var x = start + item % ${shares}u; x < params.stride; x += ${shares}u) {
    let v = reflectors[reflector + x];
    let at = column + x;
    sum += vec4f(dot(v, columns[at]), dot(v, columns[at + params.stride]),
      dot(v, columns[at + 2u * params.stride]), dot(v, columns[at + 3u * params.stride]));
  }
  partial[item] = sum;
}
workgroupBarrier();
for (var i = lane; i < ${PANEL}u; i += ${lanes}u) {
  var sum = vec4f(0.0);
  for (var share = 0u; share < ${shares}u; share++) { sum += partial[i * ${shares}u + share]; }
  products[i] = sum;
}
workgroupBarrier();
for (var i = lane; i < ${PANEL}u; i += ${lanes}u) {
  let triangle = params.first / ${PANEL}u * ${PANEL * PANEL}u;
  var sum = vec4f(0.0);
  for (var j = 0u; j < ${PANEL}u; j++) {
    sum += triangles[triangle + ${inverse ? `j * ${PANEL}u + i` : `i * ${PANEL}u + j`}] * products[j];
  }
  weights[i] = sum;
}
workgroupBarrier();
for (var x = start + lane; x < params.stride; x += ${lanes}u) {
  var change0 = vec4f(0.0);
  var change1 = vec4f(0.0);
  var change2 = vec4f(0.0);
  var change3 = vec4f(0.0);
  for (var i = 0u; i < ${PANEL}u; i++) {
    let v = reflectors[(params.first + i) * params.stride + x];
    let w = weights[i];
    change0 += w.x * v;
    change1 += w.y * v;
    change2 += w.z * v;
    change3 += w.w * v;
  }
  let at = column + x;
  columns[at] -= change0;
  columns[at + params.stride] -= change1;
  columns[at + 2u * params.stride] -= change2;
  columns[at + 3u * params.stride] -= change3;
}`;
  },
});

/** What {@link applyReflectors} changes. */
export interface Reflection {
  /** As long as the columns that were factored, and as many. */
  readonly columns: GpuOperand;
  /** The first column that is changed. */
  readonly from: number;
  /** Whether the inverse is applied, with Tᵀ. */
  readonly inverse: boolean;
}

/**
 * Applies the reflectors of a panel, `I - V T Vᵀ`, to columns from some one on.
 *
 * @param workspace - Where.
 * @param factored - Where the panel is.
 * @param first - The first column of the panel.
 * @param reflection - What to change.
 */
export function applyReflectors(
  workspace: Workspace,
  { reflectors, triangles }: Factored,
  first: number,
  { columns, from, inverse }: Reflection,
): void {
  const [count, length] = columns.shape as [number, number];
  const options = { lanes: workspace.lanes, inverse };
  const values = { first, stride: length / 4, start_column: from };
  const groups = (count - from) / COLUMNS_A_GROUP;
  workspace.gpu.run(reflect, options, { columns, reflectors, triangles }, values, groups);
}

export const shaders: readonly AnyShader[] = [reflect];
