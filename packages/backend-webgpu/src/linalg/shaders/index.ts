import type { AnyShader } from "../../shader.ts";
import * as columns from "./columns.ts";
import * as magnitudes from "./magnitudes.ts";
import * as panel from "./panel.ts";
import * as reflect from "./reflect.ts";
import * as rotate from "./rotate.ts";
import * as rotations from "./rotations.ts";

/** Every shader of the factorisations. */
export const shaders: readonly AnyShader[] = [
  columns,
  magnitudes,
  panel,
  reflect,
  rotate,
  rotations,
].flatMap((file) => file.shaders);
