// What single families add to attention and feed-forward layers, and how it stands to a conversion.
import { fc } from "@fast-check/vitest";
import { attention, rmsNorm as rmsNormOf, scope, tensor } from "@transmla/core";
import { qr, type Matrix } from "@transmla/core/linalg";
import { expect } from "vitest";

import { parseConfig } from "../../src/model/config/families.ts";
import { feedForward } from "../../src/model/feed-forward.ts";
import type { FeedForwardWeights } from "../../src/model/weights.ts";
import { BROKEN, EXACT, relativeError, SINGLE } from "./errors.ts";
import { seeds } from "./inputs/layers.ts";
import { Random } from "./inputs/random.ts";
import { backendProperty, counterexample, property } from "./property.ts";
import { rmsNorm, softmax, type Rows } from "./reference/attention.ts";

/** The two largest of a row, with their indices, largest first. */
function topTwo(row: readonly number[]): readonly [index: number, value: number][] {
  return row
    .map((value, i): [number, number] => [i, value])
    .toSorted((a, b) => b[1] - a[1])
    .slice(0, 2);
}

/** Weights of the two chosen experts: their share of a score. */
function shares(scores: readonly number[]): readonly [expert: number, weight: number][] {
  const chosen = topTwo(scores);
  const total = chosen.reduce((sum, [, score]) => sum + score, 0);
  return chosen.map(([expert, score]) => [expert, score / total]);
}

const routers = fc.array(fc.double({ min: -5, max: 5, noNaN: true }), {
  minLength: 2,
  maxLength: 8,
});

property(
  {
    id: "P40",
    statement:
      "the weights of Mixtral, a softmax over the logits of the two chosen experts, are a softmax over all experts, cut to its best two and renormalised",
    tolerance: "1e-10 relative, f64",
  },
  [routers],
  (logits) => {
    const chosen = topTwo(logits);
    const weights = softmax(chosen.map(([, logit]) => logit));
    expect(
      relativeError(
        shares(softmax(logits)).map(([, weight]) => weight),
        weights,
      ),
    ).toBeLessThan(EXACT);
  },
);

counterexample(
  {
    id: "P40",
    statement: "sigmoid scores, as DeepSeek-V3 has them, give other weights",
    tolerance: "more than 1e-3",
  },
  [fc.double({ min: 1, max: 4, noNaN: true })],
  (gap) => {
    const logits = [gap, 0];
    const sigmoids = logits.map((logit) => 1 / (1 + Math.exp(-logit)));
    const weights = (scores: readonly number[]): number[] =>
      shares(scores).map(([, weight]) => weight);
    expect(relativeError(weights(sigmoids), weights(softmax(logits)))).toBeGreaterThan(BROKEN);
  },
);

const gate = (x: number): number => x / (1 + Math.exp(-x));

backendProperty(
  {
    id: "P40",
    statement:
      "the feed-forward layer of a Mixtral model is the weighted sum of the two chosen experts",
    tolerance: "1e-4 relative, f32",
  },
  [seeds, fc.integer({ min: 2, max: 6 }), fc.integer({ min: 1, max: 5 })],
  async (backend, seed, experts, tokens) => {
    const [hidden, inner] = [6, 10];
    const random = new Random(seed);
    const [router, x] = [random.rows(experts, hidden), random.rows(tokens, hidden)];
    const stack = (rows: number, cols: number): Rows[] =>
      Array.from({ length: experts }, () => random.rows(rows, cols));
    const [gates, ups, downs] = [stack(inner, hidden), stack(inner, hidden), stack(hidden, inner)];
    const config = parseConfig({
      model_type: "mixtral",
      hidden_size: hidden,
      intermediate_size: inner,
      num_hidden_layers: 1,
      num_attention_heads: 1,
      vocab_size: 1,
      max_position_embeddings: 8,
      num_local_experts: experts,
    });

    const times = (matrix: Rows, v: readonly number[]): number[] =>
      matrix.map((row) => row.reduce((sum, a, i) => sum + a * v[i]!, 0));
    const expected = x.map((row) => {
      const out = new Array<number>(hidden).fill(0);
      for (const [expert, weight] of shares(softmax(times(router, row)))) {
        const up = times(ups[expert]!, row);
        const h = times(gates[expert]!, row).map((a, i) => gate(a) * up[i]!);
        times(downs[expert]!, h).forEach((value, i) => (out[i]! += weight * value));
      }
      return out;
    });

    using input = tensor(backend, x.flat(), [tokens, hidden]);
    using routing = tensor(backend, router.flat(), [experts, hidden]);
    using gateWeights = tensor(backend, gates.flat(2), [experts, inner, hidden]);
    using upWeights = tensor(backend, ups.flat(2), [experts, inner, hidden]);
    using downWeights = tensor(backend, downs.flat(2), [experts, hidden, inner]);
    const weights: FeedForwardWeights<typeof input> = {
      kind: "experts",
      router: routing,
      correction: undefined,
      gate: gateWeights,
      up: upWeights,
      down: downWeights,
      shared: undefined,
    };
    using y = scope(() => feedForward(input, weights, config, 0));
    expect(relativeError(await y.read(), expected.flat())).toBeLessThan(SINGLE);
  },
);

/** Scores of one query under a soft cap, `cap tanh(scale q.k / cap)`. */
const capped = (scores: readonly number[], scale: number, cap: number): number[] =>
  scores.map((score) => cap * Math.tanh((scale * score) / cap));

backendProperty(
  {
    id: "P41",
    statement:
      "a soft cap is applied to scores after their exact scale, and a window hides the same keys as before",
    tolerance: "1e-4 relative, f32",
  },
  [seeds, fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 12 })],
  async (backend, seed, tokens, window) => {
    const random = new Random(seed);
    const [q, k, v] = [random.rows(tokens, 4), random.rows(tokens, 4), random.rows(tokens, 4)];
    const [scale, cap] = [1.5, 2];
    const expected = q.map((query, t) => {
      const seen = k.map((_, n) => n).filter((n) => n <= t && t - n < window);
      const scores = seen.map((n) => query.reduce((sum, a, i) => sum + a * k[n]![i]!, 0));
      const p = softmax(capped(scores, scale, cap));
      return query.map((_, i) => seen.reduce((sum, n, j) => sum + p[j]! * v[n]![i]!, 0));
    });
    const heads = (rows: Rows) => tensor(backend, rows.flat(), [tokens, 1, 4]);
    using queries = heads(q);
    using keys = heads(k);
    using values = heads(v);
    using y = attention(queries, keys, values, { scale, causal: true, window, cap });
    expect(relativeError(await y.read(), expected.flat())).toBeLessThan(SINGLE);
  },
);

counterexample(
  {
    id: "P41",
    statement: "a soft cap before the scale gives other weights",
    tolerance: "more than 1e-3",
  },
  [fc.double({ min: 2, max: 5, noNaN: true })],
  (score) => {
    const [scale, cap] = [0.5, 2];
    const before = capped([score, 0], 1, cap).map((x) => scale * x);
    expect(relativeError(softmax(before), softmax(capped([score, 0], scale, cap)))).toBeGreaterThan(
      BROKEN,
    );
  },
);

backendProperty(
  {
    id: "P41",
    statement: "the (1 + w) norm of Gemma is the usual norm with the weight 1 + w",
    tolerance: "1e-4 relative, f32",
  },
  [seeds],
  async (backend, seed) => {
    const random = new Random(seed);
    const [rows, [weight]] = [random.rows(3, 8), random.rows(1, 8)];
    using x = tensor(backend, rows.flat(), [3, 8]);
    using w = tensor(backend, weight!, [8]);
    using y = rmsNormOf(x, w, { eps: 1e-6, offset: 1 });
    const folded = weight!.map((value) => 1 + value);
    expect(relativeError(await y.read(), rmsNorm(rows, folded, 1e-6))).toBeLessThan(SINGLE);
  },
);

/** Keys of g heads, `[T, g d]`, each head normalised. */
function normHeads(keys: Rows, gamma: readonly number[], d: number): Rows {
  return keys.map((row) => {
    const heads = Array.from({ length: row.length / d }, (_, j) => row.slice(j * d, (j + 1) * d));
    return rmsNorm(heads, gamma, 1e-6).flat();
  });
}

/** x U, and x U^T for the way back. */
function rotate(x: Rows, { cols, data }: Matrix, back = false): Rows {
  const entry = (i: number, j: number): number => data[back ? j * cols + i : i * cols + j]!;
  return x.map((row) =>
    row.map((_, j) => row.reduce((sum, value, i) => sum + value * entry(i, j), 0)),
  );
}

/** Keys of two heads of four, weights of their norm, and an orthogonal basis of all eight components. */
function headNormInputs(seed: number): { keys: Rows; gamma: number[]; basis: Matrix } {
  const random = new Random(seed);
  const square = random.rows(8, 8).flat();
  const basis = qr({ rows: 8, cols: 8, data: Float64Array.from(square) }).q;
  return { keys: random.rows(5, 8), gamma: random.rows(1, 4)[0]!.map((x) => 1 + x / 4), basis };
}

property(
  {
    id: "P42",
    statement:
      "where keys are normalised for each head, a latent made of the normalised keys gives them back at full rank",
    tolerance: "1e-10 relative, f64",
  },
  [seeds],
  (seed) => {
    const { keys, gamma, basis } = headNormInputs(seed);
    const normed = normHeads(keys, gamma, 4);
    const latent = rotate(normed, basis);
    expect(relativeError(rotate(latent, basis, true), normed)).toBeLessThan(EXACT);
  },
);

counterexample(
  {
    id: "P42",
    statement: "a latent made of the keys before their norm, normalised itself, does not",
    tolerance: "more than 1e-3",
  },
  [seeds],
  (seed) => {
    const { keys, gamma, basis } = headNormInputs(seed);
    const latent = normHeads(rotate(keys, basis), gamma, 4);
    const back = rotate(latent, basis, true);
    expect(relativeError(back, normHeads(keys, gamma, 4))).toBeGreaterThan(BROKEN);
  },
);
