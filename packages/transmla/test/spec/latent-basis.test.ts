// Which changes of basis of the latent its norm permits.
import { fc } from "@fast-check/vitest";
import { fromRows, multiply, type Matrix } from "@transmla/core/linalg";
import { expect } from "vitest";

import { asMatrix, fromMatrix, type HostTensor } from "../../src/convert/host-tensor.ts";
import { BROKEN, EXACT, relativeError } from "./errors.ts";
import { invertible, type ComplexMatrix, type MatrixKind } from "./inputs/complex.ts";
import { latentSizes, type LatentSize } from "./inputs/layers.ts";
import { latentModel } from "./inputs/models.ts";
import { Random } from "./inputs/random.ts";
import { counterexample, property } from "./property.ts";
import type { Rows } from "./reference/attention.ts";
import { deepseekAttention, type DeepseekOptions, type Tensors } from "./reference/deepseek.ts";

const prefix = "model.layers.0.self_attn.";

/** The tensors with the latent c replaced by c A, and W_UKV by A^-1 W_UKV. */
function changedBasis(
  tensors: Tensors,
  size: LatentSize,
  A: Matrix,
  inverseTransposed: Matrix,
): Tensors {
  const rank = size.latentRank;
  const changed = new Map(tensors);
  // The rows of kv_a that make the latent, and their bias, are columns of W_DKV: A^T applies to them.
  for (const name of [`${prefix}kv_a_proj_with_mqa.weight`, `${prefix}kv_a_proj_with_mqa.bias`]) {
    const tensor = tensors.get(name);
    if (!tensor) continue;
    const cols = tensor.shape[1] ?? 1;
    const latentRows = { rows: rank, cols, data: tensor.data.subarray(0, rank * cols) };
    const data = new Float64Array(tensor.data);
    data.set(multiply(A, latentRows, { transposeA: true }).data);
    changed.set(name, { shape: tensor.shape, data });
  }
  const up = tensors.get(`${prefix}kv_b_proj.weight`)!; // W_UKV transposed
  return changed.set(
    `${prefix}kv_b_proj.weight`,
    fromMatrix(multiply(asMatrix(up), inverseTransposed)),
  );
}

const real = ({ re }: ComplexMatrix): Matrix => fromRows(re);

/** The attention of a random latent layer before and after a change of basis of a kind. */
function beforeAndAfter(
  size: LatentSize,
  kind: MatrixKind,
  options: DeepseekOptions & { readonly gamma?: number },
) {
  const { json, tensors } = latentModel(size);
  const random = new Random(size.seed + 1);
  const x = random.rows(size.tokens, size.hidden);
  const { matrix, inverseAdjoint, condition } = invertible(random, size.latentRank, kind);
  const gamma: HostTensor = {
    shape: [size.latentRank],
    data: new Float64Array(size.latentRank).fill(options.gamma ?? 1),
  };
  const source = new Map(tensors).set(`${prefix}kv_a_layernorm.weight`, gamma);
  const changed = changedBasis(source, size, real(matrix), real(inverseAdjoint));
  const attend = (tensors: Tensors): Rows => deepseekAttention(x, tensors, json, options, prefix);
  return { before: attend(source), after: attend(changed), condition };
}

property(
  {
    id: "P33",
    statement:
      "without a norm, the latent c A with up-projection A^-1 W_UKV gives the same attention for every invertible A",
    tolerance: "1e-10 relative times the condition of A, f64",
  },
  [latentSizes, fc.constantFrom<MatrixKind>("real", "orthogonal", "permutation")],
  (size, kind) => {
    const { before, after, condition } = beforeAndAfter(size, kind, { latentNorm: "none" });
    expect(relativeError(after, before)).toBeLessThan(EXACT * condition);
  },
);

property(
  {
    id: "P33",
    statement: "an orthogonal A passes the norm of the latent when its weight is constant",
    tolerance: "1e-10 relative, f64",
  },
  [latentSizes, fc.double({ min: 0.1, max: 10, noNaN: true })],
  (size, gamma) => {
    const { before, after } = beforeAndAfter(size, "orthogonal", { gamma });
    expect(relativeError(after, before)).toBeLessThan(EXACT);
  },
);

counterexample(
  {
    id: "P33",
    statement: "an A that is not orthogonal does not pass the norm of the latent",
    tolerance: "> 1e-3 relative",
  },
  [latentSizes.filter(({ latentRank }) => latentRank >= 4)],
  (size) => {
    const { before, after } = beforeAndAfter(size, "real", {});
    expect(relativeError(after, before)).toBeGreaterThan(BROKEN);
  },
);
