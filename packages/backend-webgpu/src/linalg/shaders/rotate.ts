import { read, shader, write, type AnyShader } from "../../shader.ts";
import { groupsFor, type Workspace } from "../workspace.ts";
import { BLOCK, COLUMN, each, PAIR, PAIRING, type Round } from "./pairing.ts";

/** An invocation holds four rows of the columns of a pair of blocks in registers. */
const rotate = shader({
  name: "svd rotate",
  options: {},
  bindings: () => ({
    columns: write("f32", 4),
    changes: read("f32", 4),
    cosines: read("f32"),
  }),
  params: { blocks: "u32", round: "u32", stride: "u32", tiles: "u32", tolerance: "f32" },
  declarations: () => `${PAIRING}\n${COLUMN}`,
  body: () => `
let pair = group / params.tiles;
let row = group % params.tiles * 64u + lane;
if (row >= params.stride || cosines[pair] <= params.tolerance) { return; }
let blocks = meeting(params.blocks, params.round, pair);
${each(PAIR, (k) => `let x${k} = columns[column(blocks, ${k}u) * params.stride + row];`)}
let at = pair * ${(PAIR * PAIR) / 4}u;
for (var i = 0u; i < ${PAIR}u; i++) {
  var sum = vec4f(0.0);
  ${each(
    PAIR / 4,
    (q) =>
      `{ let c = changes[at + i * ${PAIR / 4}u + ${q}u]; sum += c.x * x${4 * q} + c.y * x${4 * q + 1} + c.z * x${4 * q + 2} + c.w * x${4 * q + 3}; }`,
  )}
  columns[column(blocks, i) * params.stride + row] += sum;
}`,
});

/**
 * Applies the rotations of a round.
 *
 * @param workspace - Where.
 * @param round - After the rotations were found.
 */
export function applyRotations(workspace: Workspace, round: Round): void {
  const { columns, changes, cosines, tolerance } = round;
  const size = columns.shape[0]!;
  const blocks = size / BLOCK;
  const stride = size / 2;
  const tiles = groupsFor(stride);
  const values = { blocks, round: round.round, stride, tiles, tolerance };
  workspace.gpu.run(rotate, {}, { columns, changes, cosines }, values, (blocks / 2) * tiles);
}

export const shaders: readonly AnyShader[] = [rotate];
