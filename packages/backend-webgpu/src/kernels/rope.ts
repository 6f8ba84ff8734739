import type { FusedOps } from "@transmla/core";

import { floats, type GpuKernel } from "../gpu.ts";
import { read, shader, write, type AnyShader } from "../shader.ts";
import { isHalf } from "../wgsl.ts";

const WORKGROUP = 64;

const ropeShader = shader({
  name: "rope",
  options: { x: floats, table: floats, interleaved: [false, true], lanes: [1, 2] },
  bindings: ({ x, table, lanes }) => ({
    out: write(x, lanes),
    x: read(x),
    cos: read(table),
    sin: read(table),
  }),
  params: {
    units: "u32",
    heads: "u32",
    half_width: "u32",
    x_token: "u32",
    x_head: "u32",
    x_offset: "u32",
    cos_token: "u32",
    cos_offset: "u32",
    sin_token: "u32",
    sin_offset: "u32",
  },
  workgroup: () => WORKGROUP,
  declarations: ({ interleaved }) => `
fn rotated(token: u32, head: u32, pair: u32) -> vec2f {
  let base = params.x_offset + token * params.x_token + head * params.x_head;
  let a = load_x(base + ${interleaved ? "2u * pair" : "pair"});
  let b = load_x(base + ${interleaved ? "2u * pair + 1u" : "pair + params.half_width"});
  let c = load_cos(params.cos_offset + token * params.cos_token + pair);
  let s = load_sin(params.sin_offset + token * params.sin_token + pair);
  return vec2f(a * c - b * s, b * c + a * s);
}`,
  // A unit is a pair, or two neighbouring pairs where halves are stored two elements at a time.
  body: ({ interleaved, lanes }) => {
    const pairs = !interleaved && lanes === 2 ? 2 : 1;
    const store = interleaved
      ? lanes === 2
        ? "store_out(to / 2u + pair, y);"
        : "store_out(to + 2u * pair, y.x); store_out(to + 2u * pair + 1u, y.y);"
      : lanes === 2
        ? `let z = rotated(token, head, pair + 1u);
  store_out((to + pair) / 2u, vec2f(y.x, z.x));
  store_out((to + pair + params.half_width) / 2u, vec2f(y.y, z.y));`
        : "store_out(to + pair, y.x); store_out(to + pair + params.half_width, y.y);";
    return `let unit = group * ${WORKGROUP}u + lane;
  if (unit >= params.units) { return; }
  let per_head = params.half_width / ${pairs}u;
  let row = unit / per_head;
  let pair = (unit - row * per_head) * ${pairs}u;
  let token = row / params.heads;
  let head = row - token * params.heads;
  let to = row * params.half_width * 2u;
  let y = rotated(token, head, pair);
  ${store}`;
  },
});

/** Rotates pairs by the angles of the tables. */
export const rope: GpuKernel<FusedOps["rope"]> = (gpu, out, [x, cos, sin], { interleaved }) => {
  const [tokens, heads, width] = x!.shape as [number, number, number];
  const half_width = width / 2;
  const lanes = isHalf(out.dtype) && (interleaved || half_width % 2 === 0) ? 2 : 1;
  const units = (tokens * heads * half_width) / (lanes === 2 && !interleaved ? 2 : 1);
  const values = {
    units,
    heads,
    half_width,
    x_token: x!.strides[0]!,
    x_head: x!.strides[1]!,
    x_offset: x!.offset,
    cos_token: cos!.strides[0]!,
    cos_offset: cos!.offset,
    sin_token: sin!.strides[0]!,
    sin_offset: sin!.offset,
  };
  const options = { x: x!.dtype, table: cos!.dtype, interleaved, lanes } as const;
  const buffers = { out, x: x!, cos: cos!, sin: sin! };
  gpu.run(ropeShader, options, buffers, values, Math.ceil(units / WORKGROUP));
};

export const shaders: readonly AnyShader[] = [ropeShader];
