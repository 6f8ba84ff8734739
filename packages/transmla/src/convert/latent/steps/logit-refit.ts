import { multiply, type LinalgOptions, type Matrix } from "@transmla/core/linalg";

import { multiplyPairs, type ComplexVector } from "../algebra/complex-pairs.ts";
import {
  addToDiagonal,
  beside,
  columnsOf,
  innerProduct,
  meanDiagonal,
  rowsOf,
  stackRows,
  symmetricPower,
  weightedSum,
} from "../algebra/matrices.ts";
import type { LatentLayer } from "../latent-layer.ts";
import type { SourceAttention } from "../source-layer.ts";
import type { LogitSquares } from "./logit-gradient.ts";
import type { Moments } from "./moments.ts";
import type { Slots } from "./slots.ts";

// The closed form gives all heads of a group the same map from queries to latent and rotated key, up to the mean phase.
// Here each head gets its own, by one Gauss-Newton step on the divergence of its attention: weighted least squares on
// the original logits. Conjugate gradients start at the closed form and stop early; that, and a ridge in coordinates in
// which queries and keys are white, keep them from fitting noise.

/** Steps of the conjugate gradients. */
const STEPS = 4;

/** Of the change of a map in white coordinates. */
const RIDGE = 0.2;

/** Added to both second moments, times their mean diagonal. */
const DAMPING = 1e-3;

/** A layer in closed form and where it comes from. */
export interface ClosedForm {
  readonly source: SourceAttention;
  readonly moments: Moments;
  readonly slots: Slots;
  readonly phases: readonly ComplexVector[];
  readonly layer: LatentLayer;
}

/**
 * Gives every head maps of its own from its queries to the latent and the rotated key.
 *
 * @param closed - The layer in closed form.
 * @param squares - The errors of its logits on the calibration windows.
 * @param options - The kernels.
 * @returns The layer with queries as in the source, keys of each head, and other queries for the rotated key.
 */
export async function refitLogits(
  closed: ClosedForm,
  squares: LogitSquares,
  options: LinalgOptions = {},
): Promise<LatentLayer> {
  const { source, moments, layer } = closed;
  const d = source.attention.headDim;
  const maps = await refitMaps(closedMaps(closed), moments.queries, squares, options);
  const rank = layer.latent.rows;
  return {
    ...layer,
    queryNope: source.q,
    keyUp: stackRows(maps.map((map) => columnsOf(map, 0, rank))),
    queryRope: stackRows(
      maps.map((map, h) =>
        multiply(columnsOf(map, rank, map.cols), rowsOf(source.q, h * d, (h + 1) * d), {
          ...options,
          transposeA: true,
        }),
      ),
    ),
  };
}

/**
 * Improves the maps of heads from their queries to the features of keys.
 *
 * @param start - `[d, w]` for each head.
 * @param queries - E[qᵀq] of each head.
 * @param squares - The errors of the logits on the calibration windows.
 * @param options - The kernels.
 */
export async function refitMaps(
  start: readonly Matrix[],
  queries: readonly Matrix[],
  squares: LogitSquares,
  options: LinalgOptions = {},
): Promise<Matrix[]> {
  const keyMoments = await squares.featureMoments();
  const roots = queries.map((moment, h) => ({
    queries: inverseRoot(moment, options),
    keys: inverseRoot(keyMoments[h]!, options),
  }));
  /** Between white coordinates and maps: the same in both directions, as the roots are symmetric. */
  const whiten = (maps: readonly Matrix[]): Matrix[] =>
    maps.map((map, h) =>
      multiply(multiply(roots[h]!.queries, map, options), roots[h]!.keys, options),
    );
  const right = whiten(await squares.gradient(start));
  const changes = await conjugateGradients(right, async (directions) => {
    const products = whiten(await squares.curvature(whiten(directions)));
    return addMultiples(products, () => RIDGE, directions);
  });
  return addMultiples(start, () => 1, whiten(changes));
}

/** The maps of the closed form in terms of the original queries, `[d, r + d_r]` for each head. */
function closedMaps({ source, slots, phases, layer }: ClosedForm): Matrix[] {
  const { heads, kvHeads, headDim: d } = source.attention;
  return phases.map(({ re, im }, h) => {
    const group = Math.floor(h / (heads / kvHeads));
    const own = (of: Matrix): Matrix => rowsOf(of, group * d, (group + 1) * d);
    const conjugate = { re, im: im.map((x) => -x) };
    return beside(multiplyPairs(conjugate, own(layer.keyUp)), own(slots.rebuild));
  });
}

function inverseRoot(moment: Matrix, options: LinalgOptions): Matrix {
  const damped = { ...moment, data: moment.data.slice() };
  // The least number serves a head without queries, whose gradient is zero.
  addToDiagonal(damped, Math.max(DAMPING * meanDiagonal(moment), 1e-30));
  return symmetricPower(damped, -0.5, 0, options);
}

/** `a + factor(h) b` for each head. */
function addMultiples(
  a: readonly Matrix[],
  factor: (h: number) => number,
  b: readonly Matrix[],
): Matrix[] {
  return a.map((term, h) =>
    weightedSum([
      [1, term],
      [factor(h), b[h]!],
    ]),
  );
}

/** A few steps from zero, for all heads at a time and each on its own (Hestenes & Stiefel 1952). */
async function conjugateGradients(
  right: readonly Matrix[],
  apply: (directions: readonly Matrix[]) => Promise<Matrix[]>,
): Promise<Matrix[]> {
  let solution = addMultiples(right, () => -1, right);
  let residual = [...right];
  let direction = [...right];
  let squares = residual.map((r) => innerProduct(r, r));
  for (let step = 0; step < STEPS; step++) {
    const product = await apply(direction);
    const lengths = direction.map((p, h) => ratio(squares[h]!, innerProduct(p, product[h]!)));
    solution = addMultiples(solution, (h) => lengths[h]!, direction);
    residual = addMultiples(residual, (h) => -lengths[h]!, product);
    const next = residual.map((r) => innerProduct(r, r));
    const turns = next.map((square, h) => ratio(square, squares[h]!));
    direction = addMultiples(residual, (h) => turns[h]!, direction);
    squares = next;
  }
  return solution;
}

/** A quotient, 0 of zeros: nothing is left to do. */
function ratio(a: number, b: number): number {
  return a === 0 || b === 0 ? 0 : a / b;
}
