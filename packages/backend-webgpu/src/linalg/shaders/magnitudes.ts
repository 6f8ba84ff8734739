import type { GpuOperand } from "../../gpu.ts";
import { read, shader, write, type AnyShader } from "../../shader.ts";
import { groupsFor, type Workspace } from "../workspace.ts";

/** Workgroups that look for the largest element. */
const SEARCHING = 16;

/** Each invocation looks at elements far apart. Magnitudes are compared as bits: those of NaN are the largest. */
const largest = shader({
  name: "svd largest",
  options: {},
  bindings: () => ({ elements: read("u32"), found: write("u32") }),
  params: { count: "u32", step: "u32" },
  body: () => `
var most = 0u;
for (var i = group * 64u + lane; i < params.count; i += params.step) { most = max(most, elements[i] & 0x7fffffffu); }
found[group * 64u + lane] = most;`,
});

const lengths = shader({
  name: "svd lengths",
  options: {},
  bindings: () => ({ rows: read("f32"), norms: write("f32") }),
  params: { stride: "u32", length: "u32" },
  declarations: () => "var<workgroup> partial: array<f32, 64>;",
  body: () => `
var sum = 0.0;
for (var x = lane; x < params.length; x += 64u) {
  let value = rows[group * params.stride + x];
  sum += value * value;
}
partial[lane] = sum;
for (var step = 32u; step > 0u; step /= 2u) {
  workgroupBarrier();
  if (lane < step) { partial[lane] += partial[lane + step]; }
}
if (lane == 0u) { norms[group] = sqrt(partial[0]); }`,
});

const scale = shader({
  name: "svd scale",
  options: {},
  bindings: () => ({ elements: write("f32") }),
  params: { count: "u32", factor: "f32" },
  body: () => `
let i = group * 64u + lane;
if (i < params.count) { elements[i] *= params.factor; }`,
});

const shift = shader({
  name: "eigh shift",
  options: {},
  bindings: () => ({ elements: write("f32") }),
  params: { size: "u32", amount: "f32" },
  body: () => `
let i = group * 64u + lane;
if (i < params.size) { elements[i * params.size + i] += params.amount; }`,
});

/**
 * The largest magnitude of an element of a dense f32 tensor; NaN or infinity where there is one.
 *
 * @param workspace - Where.
 * @param elements - Any tensor.
 */
export async function largestOf(workspace: Workspace, elements: GpuOperand): Promise<number> {
  const count = elements.shape.reduce((size, length) => size * length, 1);
  const step = 64 * SEARCHING;
  const found = workspace.take(step);
  workspace.gpu.run(largest, {}, { elements, found }, { count, step }, SEARCHING);
  const bits = new Uint32Array(await workspace.read(found, step));
  return new Float32Array(Uint32Array.of(bits.reduce((x, y) => Math.max(x, y))).buffer)[0]!;
}

/**
 * Multiplies a dense tensor in place.
 *
 * @param workspace - Where.
 * @param elements - Any tensor.
 * @param factor - By what.
 */
export function scaleBy(workspace: Workspace, elements: GpuOperand, factor: number): void {
  const count = elements.shape.reduce((size, length) => size * length, 1);
  workspace.gpu.run(scale, {}, { elements }, { count, factor }, groupsFor(count));
}

/**
 * The lengths of the rows of a dense matrix.
 *
 * @param workspace - Where.
 * @param rows - `[rows, ...]`.
 * @param length - How many elements of each row count.
 * @param norms - `[rows]`, filled with the lengths.
 */
export function measureRows(
  workspace: Workspace,
  rows: GpuOperand,
  length: number,
  norms: GpuOperand,
): void {
  const [count, stride] = rows.shape as [number, number];
  workspace.gpu.run(lengths, {}, { rows, norms }, { stride, length }, count);
}

/**
 * Adds to the diagonal of a dense square matrix.
 *
 * @param workspace - Where.
 * @param elements - `[size, size]`.
 * @param amount - What is added.
 */
export function shiftDiagonal(workspace: Workspace, elements: GpuOperand, amount: number): void {
  const size = elements.shape[0]!;
  workspace.gpu.run(shift, {}, { elements }, { size, amount }, groupsFor(size));
}

export const shaders: readonly AnyShader[] = [largest, lengths, scale, shift];
