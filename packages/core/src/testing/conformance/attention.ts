import * as fc from "fast-check";

import type { AttentionAttributes } from "../../backend.ts";
import { attention } from "../../fused.ts";
import type { Shape } from "../../shape.ts";
import type { Tensor } from "../../tensor.ts";
import {
  anyFloat,
  anyFloatOrBlocks,
  cases,
  samples,
  sizes,
  type Case,
  type SampleOptions,
} from "../arbitraries.ts";
import type { Subject } from "../harness.ts";
import * as reference from "../reference-fused.ts";
import type { Elements } from "../samples.ts";
import { fusedTest } from "./fused.ts";

/** Sizes of an attention: T queries of H heads, S keys of G heads. */
interface Extents {
  readonly T: number;
  readonly S: number;
  readonly G: number;
  readonly H: number;
  readonly Dk: number;
  readonly Dv: number;
}

/** Every relation of T to S and of H to G, with key and value widths that differ. */
const extents: fc.Arbitrary<Extents> = fc
  .record({
    T: fc.oneof(fc.constant(1), sizes({ max: 9 })),
    before: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 40 })),
    G: fc.constantFrom(1, 1, 2, 3),
    perGroup: fc.constantFrom(1, 2, 4),
    Dk: fc.oneof(sizes({ min: 1, max: 17 }), fc.constantFrom(63, 64, 65)),
    Dv: fc.oneof(sizes({ min: 1, max: 17 }), fc.constantFrom(63, 64, 65)),
  })
  .map(({ T, before, G, perGroup, Dk, Dv }) => {
    return { T, S: Math.max(T + before, 1), G, H: G * perGroup, Dk, Dv };
  })
  .filter(({ T, S, H, Dk, Dv }) => T * S * H * (Dk + Dv) <= 40_000);

const masks: fc.Arbitrary<AttentionAttributes> = fc.record({
  scale: fc.constantFrom(1, 0.25, 0.0883883),
  causal: fc.boolean(),
  window: fc.option(fc.integer({ min: 1, max: 12 }), { nil: undefined }),
  cap: fc.option(fc.constantFrom(0.5, 5, 50), { nil: undefined, freq: 3 }),
});

function separate(
  extents: fc.Arbitrary<Extents>,
  query: SampleOptions,
): fc.Arbitrary<Case<AttentionAttributes>> {
  return fc
    .tuple(extents, anyFloat, anyFloatOrBlocks)
    .chain(([{ T, S, G, H, Dk, Dv }, dtype, cached]) => {
      const operands = [
        samples([T, H, Dk], dtype, query),
        samples([S, G, Dk], cached),
        samples([S, G, Dv], cached),
      ];
      return cases(operands, masks);
    });
}

/** `attention` with separate keys and values, and with values that are a view of the keys. */
export function attentionTests(subject: Subject): void {
  const separately = {
    name: "attention",
    run: ([q, k, v]: readonly Tensor[], attributes: AttentionAttributes) =>
      attention(q!, k!, v!, attributes),
    expected: ([q, k, v]: readonly Elements[], attributes: AttentionAttributes) =>
      reference.attention(q!, k!, v!, attributes),
  } as const;
  fusedTest(subject, { ...separately, cases: separate(extents, {}) });
  fusedTest(subject, {
    ...separately,
    title: " with scores whose exponentials overflow",
    cases: separate(extents, { values: "large" }),
  });
  const decoding = fc
    .record({
      S: fc.integer({ min: 100, max: 600 }),
      G: fc.constantFrom(1, 2),
      perGroup: fc.nat(3),
    })
    .map(({ S, G, perGroup }) => ({ T: 1, S, G, H: G * (perGroup + 1), Dk: 9, Dv: 5 }));
  fusedTest(subject, {
    ...separately,
    title: " of one query over many keys",
    cases: separate(decoding, {}),
  });

  fusedTest(subject, {
    name: "attention",
    title: " with values that are a view of the keys",
    cases: fc
      .tuple(extents, anyFloat, anyFloatOrBlocks)
      .chain(([{ T, S, H, Dk }, dtype, cached]) => {
        return cases([samples([T, H, Dk], dtype), samples([S, 1, Dk], cached)], masks);
      }),
    run: ([q, latent], attributes) => {
      return attention(q!, latent!, latent!.slice(2, 0, latentWidth(latent!)), attributes);
    },
    expected: ([q, latent], attributes) => {
      const width = latentWidth(latent!);
      const [S, , Dk] = latent!.shape as [number, number, number];
      const values = Array.from(latent!.values).filter((_, i) => i % Dk < width);
      return reference.attention(q!, latent!, { shape: [S, 1, width], values }, attributes);
    },
  });
}

/** Absorbed latent attention: one key head, whose first columns are the values. */
function latentWidth({ shape }: { readonly shape: Shape }): number {
  const Dk = shape.at(-1)!;
  return Dk - Math.floor(Dk / 3);
}
