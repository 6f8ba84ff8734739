import { BLOCK_SIZE, blockBytes, sizeOf, type BlockDType } from "@transmla/core";

import type { Gpu, GpuOperand } from "../gpu.ts";
import { read, shader, write, type AnyShader } from "../shader.ts";
import { INDEXING } from "../wgsl.ts";
import { four } from "./views.ts";

const WORKGROUP = 64;

const blockDTypes: readonly BlockDType[] = ["q8", "q4"];

/** Words of a block. */
const wordsOf = (dtype: BlockDType): number => blockBytes[dtype] / 4;

/** The parameters of shaders in which each invocation writes a block. Strides and offsets count elements. */
const params = {
  shape: "vec4u",
  out_strides: "vec4u",
  a_strides: "vec4u",
  blocks: "u32",
  blocks_of_a_row: "u32",
  width: "u32",
  out_offset: "u32",
  a_offset: "u32",
  a_column: "u32",
} as const;

/** Finds the block of an invocation: `column`, its first element in the row, and where `a` and `out` hold that. */
const ENTER = `let id = group * ${WORKGROUP}u + lane;
  if (id >= params.blocks) { return; }
  let row = id / params.blocks_of_a_row;
  let column = (id - row * params.blocks_of_a_row) * ${BLOCK_SIZE}u;
  let source = params.a_offset + at(params.shape, params.a_strides, row) + column * params.a_column;
  let target_element = params.out_offset + at(params.shape, params.out_strides, row) + column;`;

const moveShader = shader({
  name: "copy.blocks",
  options: { out: blockDTypes },
  bindings: () => ({ out: write("u32"), a: read("u32") }),
  params,
  workgroup: () => WORKGROUP,
  declarations: () => INDEXING,
  body: ({ out }) => `${ENTER}
  let first = source / ${BLOCK_SIZE}u * ${wordsOf(out)}u;
  let to = target_element / ${BLOCK_SIZE}u * ${wordsOf(out)}u;
  for (var i = 0u; i < ${wordsOf(out)}u; i++) { out[to + i] = a[first + i]; }`,
});

/** Packs the integers of a block, given `scaled(i)`: element i over the scale. */
const packing: Readonly<Record<BlockDType, string>> = {
  q8: `for (var w = 0u; w < 8u; w++) {
    var word = 0u;
    for (var j = 0u; j < 4u; j++) {
      let whole = i32(floor(numbers[4u * w + j] * inverse + 0.5));
      word |= (bitcast<u32>(clamp(whole, -127, 127)) & 255u) << (8u * j);
    }
    out[to + 1u + w] = word;
  }`,
  q4: `for (var w = 0u; w < 4u; w++) {
    var word = 0u;
    for (var j = 0u; j < 4u; j++) {
      let low = min(u32(numbers[4u * w + j] * inverse + 8.5), 15u);
      let high = min(u32(numbers[16u + 4u * w + j] * inverse + 8.5), 15u);
      word |= (low | (high << 4u)) << (8u * j);
    }
    out[to + 1u + w] = word;
  }`,
};

const encodeShader = shader({
  name: "copy.encode",
  options: { out: blockDTypes },
  bindings: () => ({ out: write("u32"), a: read("f32") }),
  params,
  workgroup: () => WORKGROUP,
  declarations: () => INDEXING,
  // The scale as core chooses it: the largest magnitude becomes 127, or the number that has it -8.
  body: ({ out }) => `${ENTER}
  let to = target_element / ${BLOCK_SIZE}u * ${wordsOf(out)}u;
  var numbers: array<f32, ${BLOCK_SIZE}>;
  var extreme = 0.0;
  for (var i = 0u; i < min(${BLOCK_SIZE}u, params.width - column); i++) {
    numbers[i] = load_a(source + i * params.a_column);
    if (abs(numbers[i]) > abs(extreme)) { extreme = numbers[i]; }
  }
  var scale = ${out === "q8" ? "abs(extreme) / 127.0" : "extreme / -8.0"};
  if (abs(scale) < 1.1754944e-38) { scale = 0.0; }
  out[to] = bitcast<u32>(scale);
  let inverse = select(1.0 / scale, 0.0, scale == 0.0);
  ${packing[out]}`,
});

/**
 * Records a copy to blocks, of f32 or of blocks of the same dtype.
 *
 * @param gpu - Where it runs.
 * @param out - Starts at a block and steps over whole ones; its last axis may end inside one.
 * @param a - Of the same shape, at most four axes.
 */
export function writeBlocks(gpu: Gpu, out: GpuOperand, a: GpuOperand): void {
  const width = out.shape.at(-1) ?? 1;
  const rows = out.shape.slice(0, -1);
  const blocks_of_a_row = Math.ceil(width / BLOCK_SIZE);
  const blocks = sizeOf(rows) * blocks_of_a_row;
  const values = {
    shape: four(rows, 1),
    out_strides: four(out.strides.slice(0, -1), 0),
    a_strides: four(a.strides.slice(0, -1), 0),
    blocks,
    blocks_of_a_row,
    width,
    out_offset: out.offset,
    a_offset: a.offset,
    a_column: a.strides.at(-1) ?? 0,
  };
  const shader = a.dtype === "f32" ? encodeShader : moveShader;
  const options = { out: out.dtype as BlockDType };
  gpu.run(shader, options, { out, a }, values, Math.ceil(blocks / WORKGROUP));
}

export const shaders: readonly AnyShader[] = [moveShader, encodeShader];
