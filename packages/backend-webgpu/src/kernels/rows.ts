import type { Gpu } from "../gpu.ts";
import type { Lanes } from "../shader.ts";
import type { RowBlock } from "./views.ts";

/** How the elements of a row are shared out. */
export interface RowOptions {
  /** Invocations that work on one row: a workgroup, or one where invocations do not share memory. */
  readonly threads: 1 | 64 | 256;
  /** Elements loaded at once. */
  readonly lanes: Extract<Lanes, 1 | 4>;
  /** Whether sums over a subgroup are one instruction. */
  readonly subgroups: boolean;
}

/** All combinations of {@link RowOptions}. */
export const rowOptions: { readonly [K in keyof RowOptions]: readonly RowOptions[K][] } = {
  threads: [1, 64, 256],
  lanes: [1, 4],
  subgroups: [false, true],
};

/** Rows that one workgroup takes where each invocation has one of its own. */
const ROWS = 64;

/**
 * Whether a combination of row options makes no sense.
 *
 * @param options - A combination.
 */
export function excludesRows({ threads, subgroups }: RowOptions): boolean {
  return threads === 1 && subgroups;
}

/**
 * The size of a workgroup.
 *
 * @param options - How rows are shared out.
 */
export function rowWorkgroup({ threads }: RowOptions): number {
  return threads === 1 ? ROWS : threads;
}

/**
 * Chooses how rows are shared out.
 *
 * @param gpu - What the device can do.
 * @param width - Elements of a row.
 * @param steps - Everything that must be a multiple of four for rows to be loaded four elements at a time.
 */
export function planRows(gpu: Gpu, width: number, steps: readonly number[]): RowOptions {
  const lanes = width % 4 === 0 && steps.every((step) => step % 4 === 0) ? 4 : 1;
  const { cooperative, subgroups } = gpu.capabilities;
  const loads = width / lanes;
  const threads = !cooperative || loads <= 8 ? 1 : loads <= 128 ? 64 : 256;
  return { threads, lanes, subgroups: subgroups && threads > 1 };
}

/**
 * How many workgroups take so many rows.
 *
 * @param options - How rows are shared out.
 * @param rows - How many.
 */
export function rowGroups({ threads }: RowOptions, rows: number): number {
  return threads === 1 ? Math.ceil(rows / ROWS) : rows;
}

/**
 * The beginning of a body: `row`, and the loop over its elements as `first` and `step`, in units of lanes. Leaves where
 * there is no such row.
 *
 * @param options - How rows are shared out.
 * @param rows - The parameter that holds their number.
 */
export function enterRow({ threads }: RowOptions, rows: string): string {
  if (threads > 1) return `let row = group; let first = lane; const step = ${threads}u;`;
  return `let row = group * ${ROWS}u + lane; const first = 0u; const step = 1u;
  if (row >= ${rows}) { return; }`;
}

/** The expressions of reductions. */
const joins = {
  add: (a: string, b: string) => `${a} + ${b}`,
  max: (a: string, b: string) => `max(${a}, ${b})`,
};

/**
 * Functions that bring a value to all invocations of a row: `row_add(value, ...)`; to be called with {@link threadArguments}.
 *
 * @param options - How rows are shared out.
 * @param join - How two values become one.
 * @param type - The type of a value.
 */
export function rowReduction(
  { threads, subgroups }: Omit<RowOptions, "lanes">,
  join: "add" | "max",
  type: string,
): string {
  const f = joins[join];
  const head = `fn row_${join}(value: ${type}, lane: u32, subgroup_lane: u32, subgroup_size: u32) -> ${type}`;
  if (threads === 1) return `${head} { return value; }`;
  if (subgroups) {
    // Invocations of one-dimensional workgroups lie in subgroups one after the other.
    const own = join === "add" ? "subgroupAdd(value)" : "subgroupMax(value)";
    return `var<workgroup> partial_${join}: array<${type}, ${threads}>;
${head} {
  let own = ${own};
  if (subgroup_lane == 0u) { partial_${join}[lane / subgroup_size] = own; }
  workgroupBarrier();
  var all = partial_${join}[0];
  for (var i = 1u; i < ${threads}u / subgroup_size; i++) { all = ${f("all", `partial_${join}[i]`)}; }
  workgroupBarrier();
  return all;
}`;
  }
  return `var<workgroup> partial_${join}: array<${type}, ${threads}>;
${head} {
  partial_${join}[lane] = value;
  workgroupBarrier();
  for (var half = ${threads / 2}u; half > 0u; half >>= 1u) {
    if (lane < half) { partial_${join}[lane] = ${f(`partial_${join}[lane]`, `partial_${join}[lane + half]`)}; }
    workgroupBarrier();
  }
  let all = partial_${join}[0];
  workgroupBarrier();
  return all;
}`;
}

/**
 * The arguments of {@link rowReduction} functions after the value.
 *
 * @param options - How rows are shared out.
 */
export function threadArguments({ subgroups }: Omit<RowOptions, "lanes">): string {
  return subgroups ? "lane, subgroup_lane, subgroup_size" : "lane, 0u, 0u";
}

/**
 * `across_add(v)` and `across_max(v)`: the elements of one load become one.
 *
 * @param lanes - How many elements.
 * @param type - Their type.
 */
export function acrossLanes(lanes: 1 | 4, type: string): string {
  if (lanes === 1) {
    return `fn across_add(v: ${type}) -> ${type} { return v; }
fn across_max(v: ${type}) -> ${type} { return v; }`;
  }
  return `fn across_add(v: vec4<${type}>) -> ${type} { return (v.x + v.y) + (v.z + v.w); }
fn across_max(v: vec4<${type}>) -> ${type} { return max(max(v.x, v.y), max(v.z, v.w)); }`;
}

/** The parameters of every shader whose rows lie in one operand and whose results are dense. */
export const rowParams: Readonly<
  Record<"shape" | "strides", "vec4u"> & Record<"rows" | "width" | "offset" | "out_offset", "u32">
> = {
  shape: "vec4u",
  strides: "vec4u",
  rows: "u32",
  width: "u32",
  offset: "u32",
  out_offset: "u32",
};

/**
 * The values of {@link rowParams}.
 *
 * @param block - Rows of the operand and of the result, in this order.
 * @param width - Elements of a row.
 */
export function rowValues(
  { shape, count, strides, offsets }: RowBlock,
  width: number,
): Readonly<
  Record<"shape" | "strides", number[]> & Record<"rows" | "width" | "offset" | "out_offset", number>
> {
  const [offset, out_offset] = offsets as [number, number];
  return { shape, strides: strides[0]!, rows: count, width, offset, out_offset };
}
