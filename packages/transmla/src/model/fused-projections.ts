import type { ModelConfig } from "./config/model-config.ts";

/** A projection inside a fused one: its own name and its rows. */
export interface FusedPart {
  /** The name that the projection has in other families. */
  readonly name: string;
  /** Its first row. */
  readonly start: number;
  /** One past its last row. */
  readonly end: number;
}

/**
 * The projections that a fused tensor holds, as Phi-3 stores them: queries, keys and values in `qkv_proj`, gate and up
 * in `gate_up_proj`.
 *
 * @param name - The name of a tensor.
 * @param config - The model.
 * @returns The parts in order, or `undefined` for a tensor that is not fused.
 */
export function fusedParts(
  name: string,
  { attention, intermediateSize }: ModelConfig,
): FusedPart[] | undefined {
  if (name.endsWith(".gate_up_proj.weight")) {
    return split(name, "gate_up_proj", { gate_proj: intermediateSize, up_proj: intermediateSize });
  }
  if (!/\.qkv_proj\.(weight|bias)$/.test(name) || attention.kind !== "grouped") return undefined;
  const { heads, kvHeads, headDim } = attention;
  return split(name, "qkv_proj", {
    q_proj: heads * headDim,
    k_proj: kvHeads * headDim,
    v_proj: kvHeads * headDim,
  });
}

function split(name: string, fused: string, rows: Readonly<Record<string, number>>): FusedPart[] {
  let start = 0;
  return Object.entries(rows).map(([projection, count]) => {
    const part = { name: name.replace(fused, projection), start, end: start + count };
    start = part.end;
    return part;
  });
}
