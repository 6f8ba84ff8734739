import type { GpuOperand } from "../../gpu.ts";
import { read, shader, write, type AnyShader } from "../../shader.ts";
import { groupsFor, type Workspace } from "../workspace.ts";

const begin = shader({
  name: "svd begin",
  options: {},
  bindings: () => ({ columns: write("f32"), factored: read("f32") }),
  params: { size: "u32", stride: "u32" },
  body: () => `
let i = group * 64u + lane;
let column = i / (2u * params.size);
let row = i % (2u * params.size);
if (column >= params.size) { return; }
var value = f32(row == column + params.size);
if (row < params.size && row >= column && column < params.stride) { value = factored[row * params.stride + column]; }
columns[i] = value;`,
});

const refill = shader({
  name: "svd refill",
  options: {},
  bindings: () => ({ columns: write("f32"), norms: read("f32") }),
  params: { rank: "u32", size: "u32", threshold: "f32", magnitude: "f32" },
  body: () => `
let i = group * 64u + lane;
let column = i / params.size;
let row = i % params.size;
if (column >= params.rank || row >= params.rank || norms[column] > params.threshold) { return; }
var bits = i * 747796405u + 2891336453u; // PCG (O'Neill 2014)
bits = ((bits >> ((bits >> 28u) + 4u)) ^ bits) * 277803737u;
bits = (bits >> 22u) ^ bits;
columns[column * 2u * params.size + row] = params.magnitude * (f32(bits) / 2147483648.0 - 1.0);`,
});

const normalise = shader({
  name: "svd normalise",
  options: {},
  bindings: () => ({
    vectors: write("f32"),
    columns: read("f32"),
    norms: read("f32"),
    order: read("u32"),
  }),
  params: { rank: "u32", size: "u32" },
  body: () => `
let i = group * 64u + lane;
let row = i / params.rank;
if (row >= params.rank) { return; }
let column = order[i % params.rank];
vectors[i] = columns[column * 2u * params.size + row] / norms[column];`,
});

const extend = shader({
  name: "svd extend",
  options: {},
  bindings: () => ({ extended: write("f32"), columns: read("f32"), order: read("u32") }),
  params: { rank: "u32", size: "u32", stride: "u32" },
  body: () => `
let i = group * 64u + lane;
let column = i / params.stride;
let row = i % params.stride;
if (column >= params.size) { return; }
var value = 0.0;
if (column < params.rank && row < params.rank) {
  value = columns[order[column] * 2u * params.size + params.size + row];
}
extended[i] = value;`,
});

/**
 * Fills columns `[size, 2 * size]`: the rows of R as columns, each followed by a column of the identity.
 *
 * @param workspace - Where.
 * @param columns - To fill.
 * @param factored - `[size, rows]`: columns of R.
 */
export function beginColumns(
  workspace: Workspace,
  columns: GpuOperand,
  factored: GpuOperand,
): void {
  const [size, stride] = factored.shape as [number, number];
  const groups = groupsFor(2 * size * size);
  workspace.gpu.run(begin, {}, { columns, factored }, { size, stride }, groups);
}

/** Columns `[size, 2 * size]` of which the first `rank` are more than padding, and the lengths of their first halves. */
export interface Measured {
  readonly columns: GpuOperand;
  readonly norms: GpuOperand;
  readonly rank: number;
}

/**
 * Replaces columns that vanished by noise: the sweeps that follow make it orthogonal to the other columns.
 *
 * @param workspace - Where.
 * @param measured - The columns.
 * @param threshold - Columns up to this length are replaced.
 * @param length - The length of the noise, about.
 */
export function refillColumns(
  workspace: Workspace,
  { columns, norms, rank }: Measured,
  threshold: number,
  length: number,
): void {
  const size = columns.shape[0]!;
  const values = { rank, size, threshold, magnitude: length / Math.sqrt(rank) };
  workspace.gpu.run(refill, {}, { columns, norms }, values, groupsFor(rank * size));
}

/**
 * Writes the first halves of the columns, of length 1 and in order, as a matrix `[rank, rank]`.
 *
 * @param workspace - Where.
 * @param vectors - To fill.
 * @param measured - The columns.
 * @param order - `[rank]`: which column is the k-th.
 */
export function normaliseColumns(
  workspace: Workspace,
  vectors: GpuOperand,
  { columns, norms, rank }: Measured,
  order: GpuOperand,
): void {
  const values = { rank, size: columns.shape[0]! };
  const buffers = { vectors, columns, norms, order };
  workspace.gpu.run(normalise, {}, buffers, values, groupsFor(rank * rank));
}

/**
 * Writes the second halves of the columns in order, extended by zeros.
 *
 * @param workspace - Where.
 * @param extended - `[size, length]`, to fill.
 * @param measured - The columns.
 * @param order - `[rank]`: which column is the k-th.
 */
export function extendColumns(
  workspace: Workspace,
  extended: GpuOperand,
  { columns, rank }: Measured,
  order: GpuOperand,
): void {
  const [size, stride] = extended.shape as [number, number];
  const values = { rank, size, stride };
  workspace.gpu.run(extend, {}, { extended, columns, order }, values, groupsFor(size * stride));
}

export const shaders: readonly AnyShader[] = [begin, extend, normalise, refill];
