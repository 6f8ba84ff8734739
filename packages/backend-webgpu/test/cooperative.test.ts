import {
  attention,
  cast,
  expertMatmul,
  matmul,
  max,
  rmsNorm,
  scope,
  softmax,
  sum,
  tensor,
  topK,
  type AttentionAttributes,
  type Backend,
  type DType,
  type Tensor,
} from "@transmla/core";
import { consume, expectClose } from "@transmla/core/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { hasAdapter } from "../../../test/adapter.ts";
import { webgpuBackend, type WebGpuBackend } from "../src/index.ts";

// The kernels for GPUs, whose invocations share memory, against the direct ones that the conformance suite tests: a
// software adapter takes up to a second to compile one of them, so there is a case for each way through them.

describe.skipIf(!hasAdapter)("kernels that share memory", { timeout: 300_000 }, () => {
  let cooperative: WebGpuBackend;
  let direct: WebGpuBackend;
  beforeAll(async () => {
    cooperative = await webgpuBackend({ workgroupMemory: true });
    direct = await webgpuBackend({ workgroupMemory: false });
  });
  afterAll(() => {
    expect([cooperative.memory().buffers, direct.memory().buffers]).toEqual([0, 0]);
    cooperative.dispose();
    direct.dispose();
  });

  const random = (
    backend: Backend,
    seed: number,
    shape: number[],
    dtype: DType = "f32",
  ): Tensor => {
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) =>
      Math.sin(i * 12.9898 + seed * 78.233),
    );
    return dtype === "f32"
      ? tensor(backend, values, shape)
      : cast(tensor(backend, values, shape), dtype);
  };
  /** Both backends give the same, but for the order of sums of so many terms whose magnitudes add up to `scale`. */
  const expectSame = async (
    body: (backend: Backend) => Tensor,
    terms: number,
    scale = terms,
  ): Promise<void> => {
    const [actual, expected] = await Promise.all(
      [cooperative, direct].map((backend) => consume(scope<Tensor>(() => body(backend)))),
    );
    expectClose(actual!.values, expected!.values, {
      dtype: actual!.dtype,
      terms: 2 * terms,
      scale,
    });
  };

  const products: [string, number[], DType, DType, "rows" | "transposed" | "odd"][] = [
    ["tiles of rows", [70, 52, 132], "f32", "f32", "rows"],
    ["tiles of columns of q8", [66, 100, 65], "bf16", "q8", "transposed"],
    ["tiles of a view without alignment", [17, 19, 67], "f32", "f32", "odd"],
    ["a row of f32", [1, 300, 70], "f32", "f32", "transposed"],
    ["rows of bf16", [3, 512, 9], "f32", "bf16", "transposed"],
    ["a row of q8", [1, 352, 33], "f32", "q8", "transposed"],
    ["a row of q4", [1, 352, 33], "f16", "q4", "transposed"],
  ];
  test.each(products)("%s", async (_, [m, k, n], left, right, layout) => {
    await expectSame((backend) => {
      const a = random(backend, 1, [m!, k!], left);
      if (layout === "transposed")
        return matmul(
          a,
          random(backend, 2, [n!, Math.ceil(k! / 32) * 32], right)
            .slice(1, 0, k!)
            .transpose(),
        );
      return matmul(
        a,
        random(backend, 2, [k!, layout === "odd" ? n! + 1 : n!], right).slice(1, 0, n!),
      );
    }, k!);
  });

  test("experts", async () => {
    await expectSame((backend) => {
      const ids = tensor(backend, [4, 0, 2, 2, 1, 3], [3, 2], "i32");
      return expertMatmul(
        random(backend, 3, [3, 1, 132]),
        random(backend, 4, [5, 7, 132], "bf16"),
        ids,
      );
    }, 132);
  });

  const rows: [number, DType][] = [
    [100, "f32"],
    [99, "bf16"],
    [1100, "f32"],
  ];
  test.each(rows)("rows of %i %s", async (width, dtype) => {
    const x = (backend: Backend): Tensor => random(backend, 5, [3, width], dtype);
    await expectSame((backend) => softmax(x(backend)), width, 1 / width);
    await expectSame(
      (backend) => rmsNorm(x(backend), random(backend, 6, [width]), { eps: 1e-6, offset: 1 }),
      8,
    );
    await expectSame((backend) => sum(x(backend)), width);
    await expectSame((backend) => max(x(backend)), 0);
    await expectSame((backend) => topK(x(backend), 9), 0);
  });

  // T, S, H, G, Dk, Dv
  const attentions: [string, number[], DType, Partial<AttentionAttributes>][] = [
    ["grouped, prefill", [21, 80, 4, 2, 32, 32], "f32", { causal: true }],
    ["grouped, one token", [1, 700, 4, 2, 32, 32], "bf16", { causal: true }],
    ["one head, one token", [1, 130, 1, 1, 12, 8], "f32", { causal: true }],
    ["latent, one token", [1, 600, 8, 1, 160, 128], "q8", { causal: true }],
    ["wide values", [3, 70, 4, 1, 520, 516], "f32", { causal: true }],
    ["window and cap", [9, 90, 2, 2, 16, 20], "f32", { causal: true, window: 13, cap: 5 }],
    ["no mask, odd widths", [5, 67, 2, 2, 7, 9], "bf16", {}],
  ];
  test.each(attentions)("attention: %s", async (_, [T, S, H, G, Dk, Dv], cache, attributes) => {
    await expectSame(
      (backend) => {
        const keys = random(backend, 8, [S!, G!, Math.ceil(Dk! / 32) * 32], cache).slice(2, 0, Dk!);
        const values =
          cache === "q8" ? keys.slice(2, 0, Dv!) : random(backend, 9, [S!, G!, Dv!], cache);
        return attention(random(backend, 7, [T!, H!, Dk!]), keys, values, {
          scale: 0.2,
          causal: false,
          ...attributes,
        });
      },
      S! + Dk!,
      1,
    );
  });
});
