import { attention, type AttentionAttributes, type Backend } from "@transmla/core";
import {
  evaluate,
  expectClose,
  place,
  primitivesOnly,
  type Outcome,
  type Sample,
} from "@transmla/core/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { backendIn, modes } from "./modes.ts";

/** T queries of H heads, S keys of G heads. */
interface Extents {
  readonly T: number;
  readonly S: number;
  readonly H: number;
  readonly G: number;
  readonly Dk: number;
  readonly Dv: number;
}

// Blocks are 128 rows (tokens times heads of a group) and 256 keys, or 512 keys for up to 16 rows.
const cases: readonly (Extents & Omit<AttentionAttributes, "scale">)[] = [
  { T: 70, S: 70, H: 4, G: 2, Dk: 8, Dv: 8, causal: true },
  { T: 300, S: 600, H: 2, G: 1, Dk: 4, Dv: 4, causal: true },
  { T: 70, S: 331, H: 6, G: 2, Dk: 5, Dv: 9, causal: true, window: 17 },
  { T: 300, S: 300, H: 2, G: 2, Dk: 5, Dv: 9, causal: true, window: 270 },
  { T: 40, S: 400, H: 4, G: 1, Dk: 12, Dv: 7, causal: false, window: 70 },
  { T: 33, S: 350, H: 16, G: 1, Dk: 20, Dv: 16, causal: true, cap: 3 },
  { T: 2, S: 4, H: 300, G: 2, Dk: 4, Dv: 4, causal: true },
  { T: 1, S: 700, H: 8, G: 1, Dk: 20, Dv: 16, causal: true, window: 300 },
  { T: 3, S: 1500, H: 8, G: 2, Dk: 20, Dv: 16, causal: true, window: 1200 },
  { T: 1, S: 1300, H: 40, G: 2, Dk: 20, Dv: 16, causal: true },
  { T: 1, S: 1300, H: 20, G: 1, Dk: 20, Dv: 16, causal: true },
  { T: 5, S: 1100, H: 4, G: 2, Dk: 20, Dv: 16, causal: true, cap: 3 },
  { T: 600, S: 265, H: 3, G: 3, Dk: 4, Dv: 4, causal: false },
];

describe.each(Object.entries(modes))(
  "attention beyond one block of rows and keys: %s",
  (_, mode) => {
    let backend: Backend;
    beforeAll(async () => {
      backend = await backendIn(mode);
    });
    afterAll(() => {
      expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
      backend.dispose();
    });

    for (const dtype of ["f32", "bf16", "q8"] as const) {
      test.each(cases)(`${dtype} %j`, async ({ T, S, H, G, Dk, Dv, ...mask }) => {
        const sample = (shape: readonly number[], seed: number): Sample => {
          return { dtype, shape, values: "smooth", seed };
        };
        const queries: Sample = { ...sample([T, H, Dk], 1), dtype: dtype === "q8" ? "f32" : dtype };
        const run = (on: Backend): Promise<Outcome> =>
          evaluate(() => {
            const k = place(on, sample([S, G, Dk], 2));
            // Absorbed latent attention has values that are the first elements of the keys.
            const v = G === 1 && Dv < Dk ? k.slice(2, 0, Dv) : place(on, sample([S, G, Dv], 3));
            return attention(place(on, queries), k, v, { scale: 0.4, ...mask });
          });
        const [own, composed] = [await run(backend), await run(primitivesOnly(backend))];
        expect(own.shape).toEqual([T, H, Dv]);
        expectClose(own.values, composed.values, {
          dtype: queries.dtype,
          terms: 2 * (Dk + S),
          scale: 2,
        });
      });
    }
  },
);
