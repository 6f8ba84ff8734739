import * as fc from "fast-check";
import { expect, test } from "vitest";

import { BackendError } from "../../errors.ts";
import { add, affine, full, mul } from "../../ops.ts";
import { scope } from "../../scope.ts";
import { dense, empty, tensor, type Tensor } from "../../tensor.ts";
import { consume, forAll, type Subject } from "../harness.ts";
import { expectIdentical } from "../tolerance.ts";

const ramp = (length: number, start = 0): number[] => Array.from({ length }, (_, i) => start + i);

/** What a backend promises about memory, and about the order of writes, work and reads. */
export function memoryTests(subject: Subject): void {
  countTests(subject);
  lifetimeTests(subject);
  orderTests(subject);
  transferTests(subject);
}

function countTests(subject: Subject): void {
  test("memory() counts buffers and the bytes that were asked for", () => {
    const backend = subject();
    const { buffers, bytes } = backend.memory();
    const small = backend.allocate(12);
    const large = backend.allocate(1000);
    expect(backend.memory()).toEqual({ buffers: buffers + 2, bytes: bytes + 1012 });
    backend.release(small);
    expect(backend.memory()).toEqual({ buffers: buffers + 1, bytes: bytes + 1000 });
    backend.release(large);
    expect(backend.memory()).toEqual({ buffers, bytes });
  });

  test("a tensor without elements can be made, computed with and read", async () => {
    const sum = scope(() => {
      const nothing = tensor(subject(), [], [3, 0]);
      return add(nothing, affine(nothing, 2));
    });
    expect((await consume(sum)).values).toHaveLength(0);
  });

  test("allocating more than there is throws a BackendError that names the size", () => {
    const bytes = 2 ** 50;
    const allocate = (): unknown => subject().allocate(bytes);
    expect(allocate).toThrow(BackendError);
    expect(allocate).toThrow(String(bytes));
  });
}

function lifetimeTests(subject: Subject): void {
  test("a view keeps the memory when its base is disposed of", async () => {
    const base = tensor(subject(), ramp(12), [3, 4]);
    const view = scope(() => base.slice(0, 1, 3).transpose());
    base.dispose();
    const other = tensor(subject(), ramp(12, 100), [3, 4]);
    expectIdentical((await consume(view)).values, [4, 8, 5, 9, 6, 10, 7, 11]);
    other.dispose();
  });

  test("disposing twice releases once", () => {
    const { buffers } = subject().memory();
    const x = tensor(subject(), ramp(4), [4]);
    const view = x.slice(0, 1, 2);
    x.dispose();
    x.dispose();
    expect(subject().memory().buffers).toBe(buffers + 1);
    view.dispose();
    view.dispose();
    expect(subject().memory().buffers).toBe(buffers);
  });

  test("a scope that throws releases what it made", () => {
    const before = subject().memory();
    const body = (): Tensor => {
      const x = full(subject(), [8], 1);
      mul(add(x, x), x);
      throw new Error("in the middle");
    };
    expect(() => scope<Tensor>(body)).toThrow("in the middle");
    expect(subject().memory()).toEqual(before);
  });

  const program = fc.array(
    fc.record({ length: fc.integer({ min: 1, max: 300 }), drop: fc.nat(9) }),
    {
      minLength: 1,
      maxLength: 30,
    },
  );
  test(
    "live tensors never share memory, in whatever order others come and go",
    forAll(program, async (steps) => {
      const live: { readonly x: Tensor; readonly numbers: readonly number[] }[] = [];
      for (const [i, { length, drop }] of steps.entries()) {
        const numbers = ramp(length, i * 1000);
        live.push({ x: tensor(subject(), numbers, [length]), numbers });
        for (const { x } of live.splice(drop, 1)) x.dispose();
      }
      for (const { x, numbers } of live) expectIdentical((await consume(x)).values, numbers);
    }),
  );

  test("memory may grow while tensors live", async () => {
    const first = tensor(subject(), ramp(100), [100]);
    const pending = affine(first, 2);
    const large = Array.from({ length: 6 }, (_, i) => full(subject(), [1 << 20], i));
    const after = add(first, pending);
    const tails = await Promise.all(
      large.map(async (x, i) => {
        const tail = x.slice(0, (1 << 20) - 1, 1 << 20);
        return [...(await consume(tail)).values, i];
      }),
    );
    for (const x of large) x.dispose();
    expect(tails).toEqual(ramp(6).map((i) => [i, i]));
    expectIdentical(
      (await consume(after)).values,
      ramp(100).map((x) => 3 * x),
    );
    expectIdentical(
      (await consume(pending)).values,
      ramp(100).map((x) => 2 * x),
    );
    expectIdentical((await consume(first)).values, ramp(100));
  });
}

function orderTests(subject: Subject): void {
  test("a write into a recycled buffer does not disturb work that reads the old one", async () => {
    const results: Tensor[] = [];
    for (let round = 0; round < 20; round++) {
      const x = tensor(subject(), ramp(64, round), [64]);
      results.push(add(x, x));
      x.dispose(); // the next round may be given the same memory
    }
    for (const [round, result] of results.entries()) {
      expectIdentical(
        (await consume(result)).values,
        ramp(64, round).map((x) => 2 * x),
      );
    }
  });

  test("writes into one buffer are ordered with the work between them", async () => {
    const x = empty(subject(), [16]);
    const results: Tensor[] = [];
    for (let round = 0; round < 5; round++) {
      subject().write(x.buffer, new Uint8Array(Float32Array.from(ramp(16, round)).buffer));
      results.push(affine(x, 1, 100));
    }
    x.dispose();
    for (const [round, result] of results.entries()) {
      expectIdentical((await consume(result)).values, ramp(16, 100 + round));
    }
  });

  test("a read gives what was there when it was issued", async () => {
    const x = tensor(subject(), ramp(32), [32]);
    const reading = x.read();
    subject().write(x.buffer, new Uint8Array(Float32Array.from(ramp(32, 500)).buffer));
    x.dispose();
    const next = tensor(subject(), ramp(32, 900), [32]);
    expectIdentical(await reading, ramp(32));
    expectIdentical((await consume(next)).values, ramp(32, 900));
  });

  test("a read waits for a long chain of work", async () => {
    const result = scope(() => {
      let x = full(subject(), [33], 0);
      for (let i = 0; i < 300; i++) x = affine(x, 1, 1);
      return x;
    });
    expectIdentical((await consume(result)).values, new Float32Array(33).fill(300));
  });

  test("reads may be issued together and awaited in any order", async () => {
    const tensors = ramp(8).map((i) => full(subject(), [i + 1], i));
    const reads = tensors.map((x) => x.read());
    for (const x of tensors) x.dispose();
    for (const i of ramp(8).toReversed()) {
      expectIdentical((await reads[i])!, new Float32Array(i + 1).fill(i));
    }
  });
}

function transferTests(subject: Subject): void {
  test("the data of a write may be reused at once", async () => {
    const numbers = Float32Array.from(ramp(16));
    const x = tensor(subject(), numbers, [16]);
    numbers.fill(-1);
    expectIdentical((await consume(x)).values, ramp(16));
  });

  test("a write changes the beginning of a buffer and leaves the rest", async () => {
    const x = tensor(subject(), ramp(6), [6]);
    const bytes = new Uint8Array(Float32Array.of(9, 7, 8, 9).buffer).subarray(4, 12); // an offset of its own
    subject().write(x.buffer, bytes);
    expectIdentical((await consume(x)).values, [7, 8, 2, 3, 4, 5]);
  });

  test("what was read belongs to the caller", async () => {
    const x = tensor(subject(), ramp(8), [8]);
    const first = await x.read();
    first.fill(-1);
    const second = await x.read();
    const changed = affine(x, 0, 5);
    subject().write(x.buffer, new Uint8Array(32));
    expectIdentical(second, ramp(8));
    x.dispose();
    expectIdentical((await consume(changed)).values, new Float32Array(8).fill(5));
  });

  test("a window is read from its offset, in every width of element", async () => {
    for (const dtype of ["f32", "f16", "bf16", "i32", "u32"] as const) {
      const x = tensor(subject(), ramp(12), [6, 2], dtype);
      const window = x.slice(0, 1, 4);
      const column = x.slice(1, 1, 2);
      const copy = dense(column);
      x.dispose();
      expectIdentical((await consume(window)).values, ramp(6, 2));
      expectIdentical((await consume(column)).values, [1, 3, 5, 7, 9, 11]);
      expectIdentical((await consume(copy)).values, [1, 3, 5, 7, 9, 11]);
    }
  });

  test("a wrapper made by spreading the backend works on the same memory", async () => {
    let calls = 0;
    const { kernels } = subject();
    const counting = {
      ...subject(),
      kernels: {
        ...kernels,
        binary: (...call: Parameters<typeof kernels.binary>) => {
          calls++;
          return kernels.binary(...call);
        },
      },
    };
    const sum = scope(() => add(tensor(counting, ramp(4), [4]), full(counting, [4], 1)));
    expectIdentical((await consume(sum)).values, ramp(4, 1));
    expect(calls).toBe(1);
  });
}
