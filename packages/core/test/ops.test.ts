import {
  add,
  affine,
  ArgumentError,
  assign,
  attention,
  cast,
  concat,
  dense,
  equal,
  expertMatmul,
  full,
  gather,
  gatedActivation,
  matmul,
  max,
  mul,
  rmsNorm,
  rope,
  scope,
  ShapeError,
  softmax,
  sum,
  tensor,
  type Tensor,
  topK,
  unary,
} from "@transmla/core";
import { evaluate } from "@transmla/core/testing";
import { afterEach, describe, expect, test } from "vitest";

import { plainBackend } from "./plain-backend.ts";

const backend = plainBackend();
const f = (...shape: number[]): Tensor => full(backend, shape, 1);
const q = (...shape: number[]): Tensor => cast(f(...shape), "q8");
const i = (...shape: number[]): Tensor => full(backend, shape, 0, 0, "i32");

afterEach(() => {
  expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
});

const attributes = { scale: 1, causal: true };

describe("errors of operations name the operands", () => {
  const shapeErrors: readonly (readonly [string, () => unknown])[] = [
    ["add: shapes do not broadcast (f32[2,3] · f32[2])", () => add(f(2, 3), f(2))],
    [
      "mul: dtypes differ; cast one operand (f32[2] · bf16[2])",
      () => mul(f(2), cast(f(2), "bf16")),
    ],
    ["equal: dtypes differ; cast one operand (f32[2] · i32[2])", () => equal(f(2), i(2))],
    ["exp: i32 must be cast to a float dtype first (i32[2])", () => unary("exp", i(2))],
    ["identity: i32 must be cast to a float dtype first (i32[2])", () => affine(i(2), 2)],
    ["sum: needs an axis (f32[])", () => sum(f())],
    ["max: needs an axis (f32[])", () => max(f())],
    ["max: the last axis is empty (f32[2,0])", () => max(f(2, 0))],
    ["matmul: inner sizes 8 and 9 differ (f32[4,8] · f32[9,3])", () => matmul(f(4, 8), f(9, 3))],
    ["matmul: needs two axes or more (f32[4] · f32[4,3])", () => matmul(f(4), f(4, 3))],
    [
      "matmul: batch axes do not broadcast (f32[2,4,5] · f32[3,5,6])",
      () => matmul(f(2, 4, 5), f(3, 5, 6)),
    ],
    [
      "matmul: i32 must be cast to a float dtype first (f32[2,2] · i32[2,2])",
      () => matmul(f(2, 2), i(2, 2)),
    ],
    [
      "matmul: q8 must be cast to a float dtype first (q8[2,32] · f32[32,2])",
      () => matmul(q(2, 32), f(32, 2)),
    ],
    ["add: q8 must be cast to a float dtype first (q8[32] · q8[32])", () => add(q(32), q(32))],
    ["sum: q8 must be cast to a float dtype first (q8[32])", () => sum(q(32))],
    ["topK: q8 must be cast to a float dtype first (q8[32])", () => topK(q(32), 1)],
    ["full: q4 is not filled; cast a tensor of f32", () => full(backend, [32], 1, 0, "q4")],
    ["empty: q8[2,31] has a last axis that is not a multiple of 32", () => cast(f(2, 31), "q8")],
    [
      "assign: the window cuts through blocks (q8[2,32] · f32[32])",
      () => assign(q(2, 64).slice(1, 16, 48), f(32)),
    ],
    [
      "dense: the view cuts through blocks; cast it to f32 (q8[2,32])",
      () => dense(q(2, 64).slice(1, 16, 48)),
    ],
    ["gather: rows must be i32 or u32 (f32[3,2] · f32[2])", () => gather(f(3, 2), f(2))],
    ["gather: needs table[..., n, w] and rows[..., k] (f32[3] · i32[2])", () => gather(f(3), i(2))],
    [
      "gather: leading axes do not broadcast (f32[2,3,4] · i32[3,2])",
      () => gather(f(2, 3, 4), i(3, 2)),
    ],
    ["topK: needs an axis (f32[])", () => topK(f(), 1)],
    ["concat: sizes or dtypes differ (f32[2,3] · f32[3,3])", () => concat([f(2, 3), f(3, 3)], 1)],
    ["concat: sizes or dtypes differ (f32[2] · i32[2])", () => concat([f(2), i(2)], 0)],
    ["slice: axis 1 does not exist (f32[2])", () => concat([f(2)], 1)],
    ["expand: does not broadcast to [2] (f32[3])", () => assign(f(2), f(3))],
    ["softmax: needs an axis (f32[])", () => softmax(f())],
    [
      "rmsNorm: the weight does not have the size of the last axis (f32[2,3] · f32[2])",
      () => rmsNorm(f(2, 3), f(2), { eps: 0, offset: 0 }),
    ],
    [
      "rope: needs x[T, H, D] and tables[T, D/2] (f32[4,2,6] · f32[4,3] · f32[4,2])",
      () => rope(f(4, 2, 6), f(4, 3), f(4, 2), { interleaved: false }),
    ],
    [
      "rope: needs x[T, H, D] and tables[T, D/2] (f32[4,2,5] · f32[4,2] · f32[4,2])",
      () => rope(f(4, 2, 5), f(4, 2), f(4, 2), { interleaved: false }),
    ],
    [
      "attention: needs q[T, H, Dk], k[S, G, Dk] and v[S, G, Dv] (f32[2,4] · f32[3,1,4] · f32[3,1,4])",
      () => attention(f(2, 4), f(3, 1, 4), f(3, 1, 4), attributes),
    ],
    [
      "attention: query width 4 and key width 5 differ (f32[1,2,4] · f32[3,1,5] · f32[3,1,4])",
      () => attention(f(1, 2, 4), f(3, 1, 5), f(3, 1, 4), attributes),
    ],
    [
      "attention: keys and values do not match (f32[1,2,4] · f32[3,1,4] · f32[2,1,4])",
      () => attention(f(1, 2, 4), f(3, 1, 4), f(2, 1, 4), attributes),
    ],
    [
      "attention: 2 key heads do not divide 3 query heads (f32[1,3,4] · f32[3,2,4] · f32[3,2,4])",
      () => attention(f(1, 3, 4), f(3, 2, 4), f(3, 2, 4), attributes),
    ],
    [
      "attention: there are no keys (f32[0,2,4] · f32[0,2,4] · f32[0,2,4])",
      () => attention(f(0, 2, 4), f(0, 2, 4), f(0, 2, 4), attributes),
    ],
    [
      "attention: 4 queries, but only 3 positions (f32[4,1,2] · f32[3,1,2] · f32[3,1,2])",
      () => attention(f(4, 1, 2), f(3, 1, 2), f(3, 1, 2), attributes),
    ],
    [
      "gatedActivation: gate and up differ (f32[2] · f32[3])",
      () => gatedActivation(f(2), f(3), "silu"),
    ],
    [
      "expertMatmul: ids must be i32 or u32 (f32[2,4] · f32[3,5,4] · f32[2])",
      () => expertMatmul(f(2, 4), f(3, 5, 4), f(2)),
    ],
    [
      "expertMatmul: needs x[..., k, n], weights[E, m, n] and ids[..., k] (f32[3,4] · f32[3,5,4] · i32[2])",
      () => expertMatmul(f(3, 4), f(3, 5, 4), i(2)),
    ],
  ];
  test.each(shapeErrors)("%s", (message, body) => {
    expect(() => scope<void>(() => void body())).toThrow(new ShapeError(message));
  });

  const one = (): Tensor => f(1, 1, 1);
  const argumentErrors: readonly (readonly [string, () => unknown])[] = [
    ["concat: needs at least one tensor", () => concat([], 0)],
    ["topK: k = 0 is not from 1 to 3 (f32[3])", () => topK(f(3), 0)],
    ["topK: k = 4 is not from 1 to 3 (f32[3])", () => topK(f(3), 4)],
    ["topK: k = 1.5 is not from 1 to 3 (f32[3])", () => topK(f(3), 1.5)],
    [
      "attention: window 0 must be a positive integer",
      () => attention(one(), one(), one(), { ...attributes, window: 0 }),
    ],
    [
      "attention: cap -1 must be positive",
      () => attention(one(), one(), one(), { ...attributes, cap: -1 }),
    ],
  ];
  test.each(argumentErrors)("%s", (message, body) => {
    expect(() => scope<void>(() => void body())).toThrow(new ArgumentError(message));
  });
});

describe("operations that are compositions of others", () => {
  test("concat joins along any axis, empty parts included", async () => {
    const rows = await evaluate(() => {
      const parts = [
        tensor(backend, [1, 2], [1, 2]),
        f(0, 2),
        tensor(backend, [3, 4, 5, 6], [2, 2]),
      ];
      return concat(parts, 0);
    });
    expect(rows.shape).toEqual([3, 2]);
    expect(Array.from(rows.values)).toEqual([1, 2, 3, 4, 5, 6]);
    const columns = await evaluate(() => concat([full(backend, [2, 1], 7), f(2, 2)], -1));
    expect(Array.from(columns.values)).toEqual([7, 1, 1, 7, 1, 1]);
  });

  test("concat returns a tensor of its own for a single part", async () => {
    const x = f(2);
    const joined = concat([x], 0);
    x.dispose();
    expect(Array.from(await joined.read())).toEqual([1, 1]);
    joined.dispose();
  });

  test("sum of an empty axis is zero, softmax of one stays empty", async () => {
    expect(Array.from((await evaluate(() => sum(f(2, 0)))).values)).toEqual([0, 0]);
    expect((await evaluate(() => softmax(f(2, 0)))).shape).toEqual([2, 0]);
  });

  test("cast to the same dtype is a copy", async () => {
    const { values } = await evaluate(() => {
      const x = f(2);
      const copy = cast(x, "f32");
      assign(x, full(backend, [], 9));
      return copy;
    });
    expect(Array.from(values)).toEqual([1, 1]);
  });
});
