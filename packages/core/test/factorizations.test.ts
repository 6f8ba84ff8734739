import { eigh, matmul, mul, qr, svd, tensor, type Backend, type Tensor } from "@transmla/core";
import { expect, test } from "vitest";

import { plainBackend } from "./plain-backend.ts";

const values = [4, 1, -2, 3, 0, 5, 1, 2, 2, -1, 6, 0];

async function expectEqual(a: Tensor, b: Tensor): Promise<void> {
  expect(a.shape).toEqual(b.shape);
  const [x, y] = [await a.read(), await b.read()];
  x.forEach((value, i) => expect(value).toBeCloseTo(y[i]!, 5));
}

test.each([
  [3, 4],
  [4, 3],
])("svd reconstructs a %i by %i matrix", async (m, n) => {
  const a = tensor(plainBackend(), values, [m, n]);
  const { u, s, v } = await svd(a);
  expect([u.shape, s.shape, v.shape]).toEqual([[m, 3], [3], [n, 3]]);
  await expectEqual(matmul(mul(u, s), v.transpose()), a);
});

test("svd takes views", async () => {
  const a = tensor(plainBackend(), values, [3, 4]).transpose();
  const { u, s, v } = await svd(a);
  await expectEqual(matmul(mul(u, s), v.transpose()), a);
});

test("qr reconstructs", async () => {
  const a = tensor(plainBackend(), values, [4, 3]);
  const { q, r } = await qr(a);
  await expectEqual(matmul(q, r), a);
});

test("eigh reconstructs, values descending", async () => {
  const a = tensor(plainBackend(), [2, 1, 0, 1, 3, -1, 0, -1, 5], [3, 3]);
  const eigen = await eigh(a);
  const [first, second, third] = await eigen.values.read();
  expect(first! > second! && second! > third!).toBe(true);
  await expectEqual(matmul(mul(eigen.vectors, eigen.values), eigen.vectors.transpose()), a);
});

test("a backend's routine is used where it has one", async () => {
  const calls: (readonly number[])[] = [];
  const backend: Backend = {
    ...plainBackend(),
    routines: {
      svd: async (outputs, input) =>
        void calls.push(...outputs.map(({ shape }) => shape), input.shape),
    },
  };
  await svd(tensor(backend, values, [3, 4]));
  expect(calls).toEqual([[3, 3], [3], [4, 3], [3, 4]]);
});

test("a failing routine leaves no memory behind", async () => {
  const plain = plainBackend();
  const backend: Backend = { ...plain, routines: { qr: () => Promise.reject(new Error("lost")) } };
  using a = tensor(backend, values, [3, 4]);
  const before = plain.memory();
  await expect(qr(a)).rejects.toThrow("lost");
  expect(plain.memory()).toEqual(before);
});

test("errors", async () => {
  const backend = plainBackend();
  await expect(svd(tensor(backend, values, [12]))).rejects.toThrow("svd: needs a matrix (f32[12])");
  await expect(eigh(tensor(backend, values, [3, 4]))).rejects.toThrow(
    "eigh: the matrix must be square (f32[3,4])",
  );
});
