import type { GpuOperand } from "../../gpu.ts";
import { shader, write, type AnyShader } from "../../shader.ts";
import { lanesOfAGroup, type Workspace } from "../workspace.ts";
import { PAIR } from "./pairing.ts";

/** Columns of a panel; as many as a pair of blocks has, so that both pad alike. */
export const PANEL: number = PAIR;

/** `a = q r` by Householder reflections, a panel of columns at a time. */
export interface Factored {
  /** `[columns, rows]`: columns of R, on and above the diagonal. */
  readonly columns: GpuOperand;
  /** Of the same shape: the reflectors V, zeros above the ones of the diagonal. */
  readonly reflectors: GpuOperand;
  /** `[columns, PANEL]`: the triangles T of the panels. */
  readonly triangles: GpuOperand;
}

/**
 * Invocations that share a column.
 *
 * @param lanes - Invocations of a workgroup.
 */
export function sharesOf(lanes: number): number {
  return Math.max(1, lanes / PANEL);
}

const panel = shader({
  name: "qr panel",
  options: { lanes: lanesOfAGroup },
  bindings: () => ({
    columns: write("f32", 4),
    reflectors: write("f32", 4),
    triangles: write("f32"),
  }),
  params: { first: "u32", stride: "u32" },
  workgroup: ({ lanes }) => lanes,
  declarations: ({ lanes }) => `
var<workgroup> partial: array<f32, ${sharesOf(lanes) * PANEL}>;
var<workgroup> sixteenth: array<f32, 16>;
var<workgroup> products: array<f32, ${PANEL}>;
var<workgroup> triangle: array<f32, ${PANEL * PANEL}>;

fn below(row: u32, diagonal: u32) -> vec4f {
  let at = vec4u(row * 4u) + vec4u(0u, 1u, 2u, 3u);
  return select(vec4f(0.0), vec4f(1.0), at > vec4u(diagonal));
}`,
  body: ({ lanes }) => {
    const shares = sharesOf(lanes);
    return `
let start = params.first / 4u;
for (var k = lane; k < ${PANEL * PANEL}u; k += ${lanes}u) { triangle[k] = 0.0; }
for (var k = 0u; k < ${PANEL}u; k++) {
  let diagonal = params.first + k;
  let current = diagonal * params.stride;
  var sum = 0.0;
  for (var x = start + lane; x < params.stride; x += ${lanes}u) {
    let v = columns[current + x] * below(x, diagonal);
    sum += dot(v, v);
  }
  partial[lane] = sum;
  workgroupBarrier();
  if (lane < 16u) {
    var some = 0.0;
    for (var i = lane; i < ${lanes}u; i += 16u) { some += partial[i]; }
    sixteenth[lane] = some;
  }
  workgroupBarrier();
  var rest = 0.0;
  for (var i = 0u; i < 16u; i++) { rest += sixteenth[i]; }
  let isInside = diagonal / 4u < params.stride;
  let head = select(0.0, columns[min(current + diagonal / 4u, current + params.stride - 1u)][diagonal % 4u], isInside);
  let beta = select(-1.0, 1.0, head < 0.0) * sqrt(head * head + rest);
  let isTrivial = rest == 0.0;
  let tau = select((beta - head) / beta, 0.0, isTrivial);
  let factor = select(1.0 / (head - beta), 0.0, isTrivial);
  workgroupBarrier(); // everyone has read the head
  for (var x = lane; x < params.stride; x += ${lanes}u) {
    var v = vec4f(0.0);
    if (x >= start && !isTrivial) {
      v = columns[current + x] * below(x, diagonal) * factor;
      if (x == diagonal / 4u) {
        v[diagonal % 4u] = 1.0;
        columns[current + x][diagonal % 4u] = beta;
      }
    }
    reflectors[current + x] = v;
  }
  storageBarrier();
  workgroupBarrier();
  // The reflector times the columns after it, and times the reflectors before it.
  for (var item = lane; item < ${PANEL * shares}u; item += ${lanes}u) {
    let owner = item / ${shares}u;
    let own = (params.first + owner) * params.stride;
    var product = 0.0;
    for (var x = start + item % ${shares}u; x < params.stride; x += ${shares}u) {
      let v = reflectors[current + x];
      if (owner > k) { product += dot(v, columns[own + x]); }
      else { product += dot(v, reflectors[own + x]); }
    }
    partial[item] = product;
  }
  workgroupBarrier();
  for (var item = lane; item < ${PANEL * shares}u; item += ${lanes}u) {
    let owner = item / ${shares}u;
    let own = (params.first + owner) * params.stride;
    var product = 0.0;
    for (var i = 0u; i < ${shares}u; i++) { product += partial[owner * ${shares}u + i]; }
    if (item % ${shares}u == 0u) { products[owner] = product; }
    if (owner > k) {
      for (var x = start + item % ${shares}u; x < params.stride; x += ${shares}u) {
        columns[own + x] -= tau * product * reflectors[current + x];
      }
    }
  }
  storageBarrier();
  workgroupBarrier();
  for (var i = lane; i <= k; i += ${lanes}u) {
    var entry = 0.0;
    for (var l = i; l < k; l++) { entry += triangle[i * ${PANEL}u + l] * products[l]; }
    triangle[i * ${PANEL}u + k] = select(-tau * entry, tau, i == k);
  }
  workgroupBarrier();
}
let at = params.first / ${PANEL}u * ${PANEL * PANEL}u;
for (var k = lane; k < ${PANEL * PANEL}u; k += ${lanes}u) { triangles[at + k] = triangle[k]; }`;
  },
});

/**
 * Householder QR of a panel of columns by one workgroup, and the triangle T of its compact form
 * `H_1 ... H_k = I - V T Vᵀ` (Golub & Van Loan, Matrix Computations, 4th edition, 5.1 and 5.2.3; LAPACK `larft`).
 *
 * @param workspace - Where.
 * @param factored - Its columns before `first` are factored; those of the panel will be.
 * @param first - The first column of the panel.
 */
export function factorPanel(workspace: Workspace, factored: Factored, first: number): void {
  const { columns, reflectors, triangles } = factored;
  const buffers = { columns, reflectors, triangles };
  const values = { first, stride: columns.shape[1]! / 4 };
  workspace.gpu.run(panel, { lanes: workspace.lanes }, buffers, values, 1);
}

export const shaders: readonly AnyShader[] = [panel];
