import type { PrimitiveOps } from "@transmla/core";

import { anyDType, type GpuKernel } from "../gpu.ts";
import { read, shader, write, type AnyShader } from "../shader.ts";
import { INDEXING, scalarType } from "../wgsl.ts";
import { enterRow, planRows, rowGroups, rowParams, rowValues, rowWorkgroup } from "./rows.ts";
import { rowBlocks } from "./views.ts";

/** Unsigned integers in the order of the elements; -0 and 0 are equal, and NaN is above all numbers. */
const keys = {
  f32: `fn key_of(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  if ((bits << 1u) == 0u) { return 0x80000000u; }
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return 0xffffffffu; }
  return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}`,
  i32: "fn key_of(x: i32) -> u32 { return bitcast<u32>(x) ^ 0x80000000u; }",
  u32: "fn key_of(x: u32) -> u32 { return x; }",
};

const NONE = "0xffffffffu";

/** The best pair of all invocations, in the first place of both arrays. */
function bestOfAll(threads: number): string {
  if (threads === 1) return "";
  return `keys[lane] = key; indices[lane] = index;
    workgroupBarrier();
    for (var half = ${threads / 2}u; half > 0u; half >>= 1u) {
      if (lane < half && precedes(keys[lane + half], indices[lane + half], keys[lane], indices[lane])) {
        keys[lane] = keys[lane + half]; indices[lane] = indices[lane + half];
      }
      workgroupBarrier();
    }
    key = keys[0]; index = indices[0];
    workgroupBarrier();`;
}

const topKShader = shader({
  name: "topK",
  options: { a: anyDType, threads: [1, 64, 256] },
  bindings: ({ a }) => ({ out: write("u32"), a: read(a) }),
  params: { ...rowParams, k: "u32" },
  workgroup: (options) => rowWorkgroup({ ...options, lanes: 1, subgroups: false }),
  declarations: ({ a, threads }) => `${INDEXING}
${keys[scalarType(a)]}
${threads > 1 ? `var<workgroup> keys: array<u32, ${threads}>;\nvar<workgroup> indices: array<u32, ${threads}>;` : ""}
fn precedes(key: u32, index: u32, other: u32, other_index: u32) -> bool {
  return key > other || (key == other && index < other_index);
}`,
  // Each round takes the first element, in the order of the result, after that of the round before.
  body: ({ threads }) => `${enterRow({ threads, lanes: 1, subgroups: false }, "params.rows")}
  let base = params.offset + at(params.shape, params.strides, row);
  var last_key = 0xffffffffu;
  var last_index = ${NONE};
  for (var round = 0u; round < params.k; round++) {
    var key = 0u;
    var index = ${NONE};
    for (var i = first; i < params.width; i += step) {
      let candidate = key_of(load_a(base + i));
      let remains = round == 0u || precedes(last_key, last_index, candidate, i);
      if (remains && precedes(candidate, i, key, index)) { key = candidate; index = i; }
    }
    ${bestOfAll(threads)}
    if (first == 0u) { store_out(params.out_offset + row * params.k + round, index); }
    last_key = key;
    last_index = index;
  }`,
});

/** The indices of the k largest elements of the last axis. */
export const topK: GpuKernel<PrimitiveOps["topK"]> = (gpu, out, [a], { k }) => {
  const width = a!.shape.at(-1)!;
  for (const block of rowBlocks(a!.shape.slice(0, -1), [a!, out])) {
    const plan = planRows(gpu, width, [1]);
    const values = { ...rowValues(block, width), k };
    const options = { a: a!.dtype, threads: plan.threads };
    gpu.run(topKShader, options, { out, a: a! }, values, rowGroups(plan, block.count));
  }
};

export const shaders: readonly AnyShader[] = [topKShader];
