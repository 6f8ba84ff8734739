import type { AttentionAttributes } from "@transmla/core";

import type { CpuKernel } from "../../kernel.ts";
import { MOST_HEADS } from "../../products/heads.ts";
import { attendByKeys } from "./by-keys.ts";
import { attendByRows } from "./by-rows.ts";
import { convertHeads, headRows } from "./plan.ts";

/**
 * Attention by blocks of keys: there is no matrix of all scores. The heads of a group are rows of one product with its
 * keys, so that a block of keys is read once for all of them. What threads compute does not depend on how many there are.
 */
export const attention: CpuKernel<AttentionAttributes> = (memory, out, [q, k, v], attributes) => {
  const [tokens, heads] = out.shape as [number, number, number];
  const groups = k!.shape[1]!;
  const perGroup = heads / groups;
  const plan = {
    memory,
    attributes,
    queries: headRows(memory, q!),
    results: headRows(memory, out),
    keys: k!,
    values: v!,
    tokens,
    firstPosition: k!.shape[0]! - tokens,
    groups,
    perGroup,
  };
  const divisor = memory.scratch(1);
  memory.f32[divisor] = 1 / attributes.scale;
  convertHeads(memory, q!, plan.queries, "widen");
  // One token has few rows to share, and reads all keys.
  if (memory.simd && (tokens * perGroup <= MOST_HEADS || tokens === 1)) {
    attendByKeys(plan, memory.simd, divisor);
  } else attendByRows(plan, divisor);
  convertHeads(memory, out, plan.results, "narrow");
};
