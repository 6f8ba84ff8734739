import type { DType } from "@transmla/core";

import { floats, floatsAndBlocks } from "../../gpu.ts";
import { read, shader, write, type ParameterType, type Shader } from "../../shader.ts";
import { rowReduction, threadArguments } from "../rows.ts";

// T new tokens, S tokens in all, H query heads, G key heads. A row is a query head at a token.

/** Invocations of a workgroup, and keys that it looks at together. */
export const KEYS = 64;

/** What the text of the attention shader depends on. */
export interface AttentionOptions {
  /** The dtype of queries and results. */
  readonly q: DType;
  /** The dtype of keys and values. */
  readonly cache: DType;
  /** Elements loaded at once. */
  readonly lanes: 1 | 4;
  /** Rows of a workgroup: they share a key head, and each key is loaded once for all of them. */
  readonly rows: 1 | 4;
  /** Groups of lanes of the result that each invocation keeps, for wide values. */
  readonly columns: 1 | 2 | 4;
  /** Whether the keys are shared out among workgroups, whose results {@link combineShader} joins. */
  readonly partial: boolean;
  /** Whether sums over a subgroup are one instruction. */
  readonly subgroups: boolean;
}

type Sizes =
  | ("rows" | "row_tiles" | "per_group" | "heads" | "keys" | "first_position" | "splits")
  | ("key_width" | "value_width" | "causal" | "window")
  | ("q_token" | "q_head" | "q_offset" | "k_token" | "k_head" | "k_offset")
  | ("v_token" | "v_head" | "v_offset");

/** The parameters of the attention shader. Widths are in units of lanes. */
export type AttentionParameters = Sizes | "scale" | "cap";

const sizes: Readonly<Record<Sizes, ParameterType>> = {
  rows: "u32",
  row_tiles: "u32",
  per_group: "u32",
  heads: "u32",
  keys: "u32",
  first_position: "u32",
  splits: "u32",
  key_width: "u32",
  value_width: "u32",
  causal: "u32",
  window: "u32",
  q_token: "u32",
  q_head: "u32",
  q_offset: "u32",
  k_token: "u32",
  k_head: "u32",
  k_offset: "u32",
  v_token: "u32",
  v_head: "u32",
  v_offset: "u32",
};

/** Below every score; an infinity would be lost where an implementation assumes that there are none. */
const LOWEST = "-3.4e38";

const indices = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** Text that depends on the number of rows: numbers, or vectors with a component for each row. */
function rowText(rows: 1 | 4) {
  const type = rows === 1 ? "f32" : "vec4<f32>";
  const each = (make: (r: number) => string): string =>
    `${type}(${indices(rows).map(make).join(", ")})`;
  const component = (value: string, r: number): string => (rows === 1 ? value : `${value}[${r}]`);
  const visible = (r: number): string => `(key >= begin${r} && key < end${r} && key < last)`;
  const seen = rows === 1 ? visible(0) : `vec4<bool>(${indices(4).map(visible).join(", ")})`;
  return { type, each, component, seen };
}

/** Finds the rows of the workgroup, and the keys that any of them sees. */
function findRows(rows: number, lanes: number): string {
  const each = indices(rows).map(
    (r) => `let row${r} = min(first_row + ${r}u, params.rows - 1u);
  let token${r} = row${r} / params.per_group;
  let head${r} = g * params.per_group + row${r} - token${r} * params.per_group;
  let q${r} = (params.q_offset + token${r} * params.q_token + head${r} * params.q_head) / ${lanes}u;
  let position${r} = params.first_position + token${r};
  let begin${r} = select(0u, position${r} + 1u - params.window, position${r} + 1u > params.window);
  let end${r} = select(params.keys, position${r} + 1u, params.causal != 0u);`,
  );
  return `let split = group % params.splits;
  let tile = group / params.splits;
  let g = tile / params.row_tiles;
  let first_row = (tile - g * params.row_tiles) * ${rows}u;
  ${each.join("\n  ")}
  // Rows come in the order of their tokens.
  let span = (end${rows - 1} - begin0 + params.splits - 1u) / params.splits;
  let start = begin0 + split * span;
  let last = min(end${rows - 1}, start + span);`;
}

/** Adds up what the parts of the workgroup have gathered, and stores it. */
function storeRows({ rows, lanes, columns, partial }: AttentionOptions): string {
  const { component } = rowText(rows);
  const all = indices(columns).flatMap((c) => indices(rows).map((r) => `mixed${c}_${r}`));
  const whole = indices(rows).map(
    (r) => `(token${r} * params.heads + head${r}) * params.value_width`,
  );
  const store = partial
    ? lanes === 1
      ? "store_out(to + at, total);"
      : "for (var i = 0u; i < 4u; i++) { store_out(to + at * 4u + i, total[i]); }"
    : "if (first_row + r < params.rows) { store_out(to + at, total / own[r]); }";
  const place = partial
    ? `let stride = params.value_width * ${lanes}u + 2u;
  var to_rows: array<u32, ${rows}>;
  for (var r = 0u; r < ${rows}u; r++) {
    to_rows[r] = (group * ${rows}u + r) * stride;
    if (lane == 0u) {
      store_out(to_rows[r] + stride - 2u, tops[r]);
      store_out(to_rows[r] + stride - 1u, own[r]);
    }
  }`
    : `var to_rows = array<u32, ${rows}>(${whole.join(", ")});`;
  const list = (name: string): string =>
    `array<f32, ${rows}>(${indices(rows)
      .map((r) => component(name, r))
      .join(", ")})`;
  return `var own = ${list("sum")};
  var tops = ${list("largest")};
  ${place}
  var mixed = array<${lanes === 1 ? "f32" : "vec4f"}, ${all.length}>(${all.join(", ")});
  if (parts > 1u) {
    for (var r = 0u; r < ${rows}u; r++) { gathered[r * ${KEYS}u + lane] = mixed[r]; }
    workgroupBarrier();
  }
  if (part > 0u) { return; }
  for (var i = 0u; i < ${all.length}u; i++) {
    let r = i % ${rows}u;
    let at = column + i / ${rows}u * ${KEYS}u;
    if (at < params.value_width) {
      var total = mixed[i];
      for (var j = 1u; j < parts; j++) { total += gathered[r * ${KEYS}u + lane + j * params.value_width]; }
      let to = to_rows[r];
      ${store}
    }
  }`;
}

/**
 * Attention with a running maximum and sum for each row (Milakov & Gimelshein 2018; Rabe & Staats 2021). Each invocation
 * scores one key of a block; then the block's values are added up, each invocation taking some of their columns.
 */
export const attentionShader: Shader<
  AttentionOptions,
  "out" | "q" | "k" | "v",
  AttentionParameters
> = shader({
  name: "attention",
  options: {
    q: floats,
    cache: floatsAndBlocks,
    lanes: [1, 4],
    rows: [1, 4],
    columns: [1, 2, 4],
    partial: [false, true],
    subgroups: [false, true],
  },
  bindings: ({ q, cache, lanes, partial }) => ({
    out: partial ? write("f32") : write(q, lanes),
    q: read(q, lanes),
    k: read(cache, lanes),
    v: read(cache, lanes),
  }),
  params: { ...sizes, scale: "f32", cap: "f32" },
  workgroup: () => KEYS,
  declarations: (options) => {
    const { type } = rowText(options.rows);
    const reduction = { threads: KEYS, subgroups: options.subgroups } as const;
    return [
      rowReduction(reduction, "max", type),
      rowReduction(reduction, "add", type),
      `var<workgroup> weights: array<${type}, ${KEYS}>;`,
      `var<workgroup> gathered: array<${options.lanes === 1 ? "f32" : "vec4f"}, ${KEYS * options.rows}>;`,
      `fn capped(x: ${type}) -> ${type} {
  let y = clamp(x / params.cap, ${type}(-10.0), ${type}(10.0));
  return params.cap * (1.0 - 2.0 / (exp(2.0 * y) + 1.0));
}`,
    ].join("\n");
  },
  body: (options) => {
    const { lanes, rows, columns } = options;
    const { type, each, component, seen } = rowText(rows);
    const value = lanes === 1 ? "f32" : "vec4f";
    const product = (r: number): string =>
      lanes === 1 ? `load_q(q${r} + d) * k4` : `dot(load_q(q${r} + d), k4)`;
    const all = indices(columns).flatMap((c) => indices(rows).map((r) => `mixed${c}_${r}`));
    const mix = indices(columns).map(
      (c) => `if (column + ${c * KEYS}u < params.value_width) {
        let value = load_v(value_at + ${c * KEYS}u);
        ${indices(rows)
          .map((r) => `mixed${c}_${r} += ${component("weight", r)} * value;`)
          .join(" ")}
      }`,
    );
    const args = threadArguments({ threads: KEYS, subgroups: options.subgroups });
    return `${findRows(rows, lanes)}
  // Narrow values leave invocations free to take part of the keys.
  let parts = max(${KEYS}u / params.value_width, 1u);
  let part = lane / params.value_width;
  let column = select(lane, lane % params.value_width, parts > 1u);
  var largest = ${type}(${LOWEST});
  var sum = ${type}(0.0);
  ${all.map((name) => `var ${name} = ${value}();`).join(" ")}
  for (var block = start; block < last; block += ${KEYS}u) {
    let key = block + lane;
    let key_at = (params.k_offset + min(key, params.keys - 1u) * params.k_token + g * params.k_head) / ${lanes}u;
    var score = ${type}(0.0);
    for (var d = 0u; d < params.key_width; d++) {
      let k4 = load_k(key_at + d);
      score += ${each(product)};
    }
    score *= params.scale;
    if (params.cap > 0.0) { score = capped(score); }
    let seen = ${seen};
    score = select(${type}(${LOWEST}), score, seen);
    let now = max(largest, row_max(score, ${args}));
    let weighed = select(${type}(0.0), exp(score - now), seen);
    let factor = exp(largest - now);
    largest = now;
    sum = sum * factor + weighed;
    weights[lane] = weighed;
    workgroupBarrier();
    ${all.map((name, i) => `${name} *= ${component("factor", i % rows)};`).join(" ")}
    if (part < parts) {
      for (var j = part; j < min(${KEYS}u, last - block); j += parts) {
        let weight = weights[j];
        let value_at = (params.v_offset + (block + j) * params.v_token + g * params.v_head) / ${lanes}u + column;
        ${mix.join("\n      ")}
      }
    }
    workgroupBarrier();
  }
  sum = row_add(sum, ${args});
  ${storeRows(options)}`;
  },
});

/** Joins what several workgroups have gathered of the same rows. */
export const combineShader: Shader<
  { readonly out: DType; readonly rows: 1 | 4 },
  "out" | "parts",
  "size" | "row_tiles" | "per_group" | "heads" | "splits" | "value_width"
> = shader({
  name: "attention.combine",
  options: { out: floats, rows: [1, 4] as readonly (1 | 4)[] },
  bindings: ({ out }) => ({ out: write(out), parts: read("f32") }),
  params: {
    size: "u32",
    row_tiles: "u32",
    per_group: "u32",
    heads: "u32",
    splits: "u32",
    value_width: "u32",
  },
  body: ({ rows }) => `let i = group * 64u + lane;
  if (i >= params.size) { return; }
  let column = i % params.value_width;
  let at_token = i / params.value_width;
  let head = at_token % params.heads;
  let g = head / params.per_group;
  let row = (at_token / params.heads) * params.per_group + head - g * params.per_group;
  let tile = g * params.row_tiles + row / ${rows}u;
  let stride = params.value_width + 2u;
  let first = (tile * params.splits * ${rows}u + row % ${rows}u) * stride;
  let step = ${rows}u * stride;
  var largest = ${LOWEST};
  for (var s = 0u; s < params.splits; s++) { largest = max(largest, load_parts(first + s * step + stride - 2u)); }
  var total = 0.0;
  var sum = 0.0;
  for (var s = 0u; s < params.splits; s++) {
    let factor = exp(load_parts(first + s * step + stride - 2u) - largest);
    total += factor * load_parts(first + s * step + column);
    sum += factor * load_parts(first + s * step + stride - 1u);
  }
  store_out(i, total / sum);`,
});
