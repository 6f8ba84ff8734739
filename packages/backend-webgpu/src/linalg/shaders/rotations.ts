import { read, shader, write, type AnyShader } from "../../shader.ts";
import { lanesOfAGroup, type Workspace } from "../workspace.ts";
import { BLOCK, COLUMN, each, PAIR, PAIRING, type Round } from "./pairing.ts";

/** Tiles of 4 x 4 products on and above the diagonal of the products of a pair of blocks with itself. */
const TILES = ((PAIR / 4) * (PAIR / 4 + 1)) / 2;
/** Odd, so that rows and columns of the array in workgroup memory lie in different banks. */
const STRIDE = PAIR + 1;

const rotations = shader({
  name: "svd rotations",
  options: { lanes: lanesOfAGroup },
  bindings: () => ({
    columns: read("f32", 4),
    changes: write("f32"),
    cosines: write("f32"),
  }),
  params: {
    blocks: "u32",
    round: "u32",
    stride: "u32",
    length: "u32",
    tolerance: "f32",
    /** Columns whose squared length is less are ignored. */
    floor: "f32",
  },
  workgroup: ({ lanes }) => lanes,
  declarations: () => `${PAIRING}
${COLUMN}
var<workgroup> gram: array<f32, ${PAIR * STRIDE}>;
var<workgroup> change: array<f32, ${PAIR * STRIDE}>;
var<workgroup> rotation: array<vec2f, ${BLOCK}>;
var<workgroup> most: atomic<u32>;
var<workgroup> isActive: u32;

fn cosine(i: u32, j: u32) -> f32 {
  let a = gram[i * ${STRIDE}u + i];
  let b = gram[j * ${STRIDE}u + j];
  if (min(a, b) <= params.floor) { return 0.0; }
  return abs(gram[i * ${STRIDE}u + j]) / (sqrt(a) * sqrt(b));
}

// Sine and tangent of half the angle that makes columns i and j orthogonal, the longer one first.
fn rotate(i: u32, j: u32) -> vec2f {
  let a = gram[i * ${STRIDE}u + i];
  let b = gram[j * ${STRIDE}u + j];
  let product = gram[i * ${STRIDE}u + j];
  if (product == 0.0 || min(a, b) <= params.floor) { return vec2f(0.0); }
  let tau = (b - a) / (2.0 * product);
  // Beyond 2^60, tau * tau overflows.
  let root = select(sqrt(1.0 + tau * tau), abs(tau), abs(tau) > 0x1p60);
  let t = select(-1.0, 1.0, tau >= 0.0) / (abs(tau) + root);
  let c = 1.0 / sqrt(1.0 + t * t);
  let s = t * c;
  return vec2f(s, s / (1.0 + c));
}`,
  body: ({ lanes }) => {
    // Invocations that share a tile, each with a part of the rows.
    const shares = Math.max(1, Math.floor(lanes / TILES));
    return `
let blocks = meeting(params.blocks, params.round, group);
for (var k = lane; k < ${PAIR * STRIDE}u; k += ${lanes}u) { gram[k] = 0.0; change[k] = 0.0; }
if (lane == 0u) { atomicStore(&most, 0u); }
for (var first = 0u; first < ${TILES * shares}u; first += ${lanes}u) {
  let tile = (first + lane) / ${shares}u;
  let share = (first + lane) % ${shares}u;
  var ti = 0u; // the row of the tile in the upper triangle
  var tj = min(tile, ${TILES - 1}u);
  while (tj >= ${PAIR / 4}u - ti) { tj -= ${PAIR / 4}u - ti; ti++; }
  tj += ti;
${each(4, (i) => `let a${i} = column(blocks, 4u * ti + ${i}u) * params.stride;`)}
${each(4, (j) => `let b${j} = column(blocks, 4u * tj + ${j}u) * params.stride;`)}
${each(4, (i) => `var sum${i} = vec4f(0.0);`)}
if (tile < ${TILES}u) {
  for (var x = share; x < params.length; x += ${shares}u) {
    ${each(4, (j) => `let y${j} = columns[b${j} + x];`)}
    ${each(
      4,
      (i) =>
        `{ let x${i} = columns[a${i} + x]; sum${i} += vec4f(dot(x${i}, y0), dot(x${i}, y1), dot(x${i}, y2), dot(x${i}, y3)); }`,
    )}
  }
}
for (var turn = 0u; turn < ${shares}u; turn++) {
  workgroupBarrier();
  if (share == turn && tile < ${TILES}u) {
    for (var j = 0u; j < 4u; j++) {
      let at = 4u * ti * ${STRIDE}u + 4u * tj + j;
      ${each(4, (i) => `gram[at + ${i * STRIDE}u] += sum${i}[j];`)}
    }
  }
}
}
workgroupBarrier();
for (var k = lane; k < ${PAIR * PAIR}u; k += ${lanes}u) {
  let i = k / ${PAIR}u;
  let j = k % ${PAIR}u;
  if (i < j) { atomicMax(&most, bitcast<u32>(cosine(i, j))); }
  if (i > j) { gram[i * ${STRIDE}u + j] = gram[j * ${STRIDE}u + i]; }
}
workgroupBarrier();
if (lane == 0u) {
  let found = bitcast<f32>(atomicLoad(&most));
  let pairs = params.blocks / 2u;
  cosines[group] = found;
  cosines[pairs + group] = select(max(cosines[pairs + group], found), found, params.round == 0u);
  isActive = u32(!(found <= params.tolerance));
}
if (workgroupUniformLoad(&isActive) == 0u) { return; }
for (var round = 0u; round < ${PAIR - 1}u; round++) {
  if (lane < ${BLOCK}u) {
    let pair = meeting(${PAIR}u, round, lane);
    rotation[lane] = rotate(pair.x, pair.y);
  }
  workgroupBarrier();
  // Both sides of the products: an invocation owns two rows and two columns of them.
  for (var k = lane; k < ${BLOCK * BLOCK}u; k += ${lanes}u) {
    let p = k / ${BLOCK}u;
    let q = k % ${BLOCK}u;
    let rows = meeting(${PAIR}u, round, p) * ${STRIDE}u;
    let cols = meeting(${PAIR}u, round, q);
    let r = rotation[p];
    let c = rotation[q];
    let xx = gram[rows.x + cols.x];
    let xy = gram[rows.x + cols.y];
    let yx = gram[rows.y + cols.x];
    let yy = gram[rows.y + cols.y];
    let ux = xx - r.x * (yx + r.y * xx);
    let uy = xy - r.x * (yy + r.y * xy);
    let lx = yx + r.x * (xx - r.y * yx);
    let ly = yy + r.x * (xy - r.y * yy);
    gram[rows.x + cols.x] = ux - c.x * (uy + c.y * ux);
    gram[rows.x + cols.y] = select(uy + c.x * (ux - c.y * uy), 0.0, p == q);
    gram[rows.y + cols.x] = select(lx - c.x * (ly + c.y * lx), 0.0, p == q);
    gram[rows.y + cols.y] = ly + c.x * (lx - c.y * ly);
  }
  for (var k = lane; k < ${PAIR * BLOCK}u; k += ${lanes}u) {
    let row = k / ${BLOCK}u;
    let pair = meeting(${PAIR}u, round, k % ${BLOCK}u);
    let r = rotation[k % ${BLOCK}u];
    let x = change[row * ${STRIDE}u + pair.x];
    let y = change[row * ${STRIDE}u + pair.y];
    let fx = x + f32(row == pair.x);
    let fy = y + f32(row == pair.y);
    change[row * ${STRIDE}u + pair.x] = x - r.x * (fy + r.y * fx);
    change[row * ${STRIDE}u + pair.y] = y + r.x * (fx - r.y * fy);
  }
  workgroupBarrier();
}
for (var k = lane; k < ${PAIR * PAIR}u; k += ${lanes}u) {
  changes[group * ${PAIR * PAIR}u + k] = change[(k % ${PAIR}u) * ${STRIDE}u + k / ${PAIR}u];
}`;
  },
});

/**
 * For each pair of blocks, the rotations that make its columns more orthogonal: the products of the columns with each
 * other, one cyclic Jacobi sweep over them with a parallel ordering (Golub & Van Loan, Matrix Computations, 4th edition,
 * 8.5 and 8.6.3), and the product of its rotations, less the identity. What was furthest from orthogonal is kept.
 *
 * @param workspace - Where.
 * @param round - Its `changes` and `cosines` are filled.
 */
export function findRotations(workspace: Workspace, round: Round): void {
  const size = round.columns.shape[0]!;
  const blocks = size / BLOCK;
  const values = {
    blocks,
    round: round.round,
    stride: size / 2,
    length: size / 4,
    tolerance: round.tolerance,
    floor: round.floor ** 2,
  };
  const { columns, changes, cosines } = round;
  const buffers = { columns, changes, cosines };
  workspace.gpu.run(rotations, { lanes: workspace.lanes }, buffers, values, blocks / 2);
}

export const shaders: readonly AnyShader[] = [rotations];
