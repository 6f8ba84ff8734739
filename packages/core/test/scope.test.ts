import { add, ArgumentError, full, keep, scope, tensor, type Tensor } from "@transmla/core";
import { afterEach, expect, test } from "vitest";

import { plainBackend } from "./plain-backend.ts";

const backend = plainBackend();
const one = (): Tensor => full(backend, [2], 1);
const live = (): number => backend.memory().buffers;

afterEach(() => {
  expect(live()).toBe(0);
});

test("a scope frees what its body made and did not return", () => {
  const sum = scope(() => add(add(one(), one()), one()));
  expect(live()).toBe(1);
  sum.dispose();
});

test("arrays and plain objects of tensors leave the scope, nested too", () => {
  const made = scope(() => {
    one();
    return { pair: [one(), one()], more: { x: one(), nothing: null }, count: 3 };
  });
  expect(live()).toBe(3);
  expect(made.count).toBe(3);
  for (const x of [...made.pair, made.more.x]) x.dispose();
});

test("what an inner scope returns belongs to the outer one", () => {
  const seen: number[] = [];
  scope(() => {
    scope(() => add(one(), one()));
    seen.push(live());
  });
  expect(seen).toEqual([1]);
});

test("a tensor made outside is not freed, even when it is returned", () => {
  const x = one();
  expect(scope(() => x)).toBe(x);
  expect(live()).toBe(1);
  x.dispose();
});

test("a returned view keeps the memory of a base that is freed", async () => {
  const row = scope(() => tensor(backend, [1, 2, 3, 4], [2, 2]).slice(0, 1, 2));
  expect(Array.from(await row.read())).toEqual([3, 4]);
  row.dispose();
});

test("a tensor may be disposed of before its scope ends", () => {
  const seen: number[] = [];
  scope(() => {
    one().dispose();
    seen.push(live());
  });
  expect(seen).toEqual([0]);
});

test("a throw frees everything, and the surrounding scope goes on", () => {
  const sum = scope(() => {
    const x = one();
    expect(() =>
      scope(() => {
        one();
        throw new Error("in the middle");
      }),
    ).toThrow("in the middle");
    expect(live()).toBe(1);
    return add(x, x);
  });
  expect(live()).toBe(1);
  sum.dispose();
});

test("keep takes a tensor out of every scope", () => {
  const kept: Tensor[] = [];
  scope(() => {
    const outer = one();
    scope(() => {
      kept.push(keep(one()), keep(outer));
    });
  });
  expect(live()).toBe(2);
  for (const x of kept) x.dispose();
});

test("keep outside of scopes changes nothing", () => {
  const x = one();
  expect(keep(x)).toBe(x);
  expect(live()).toBe(1);
  x.dispose();
});

test("an async body is refused, by its type and when it runs", async () => {
  const pending = async (): Promise<void> => {
    const x = one();
    await Promise.resolve();
    add(x, x); // by now freed: the rejection must not go unhandled
  };
  const refused = (): void => {
    // @ts-expect-error a body that returns a promise has the type never
    void scope(pending);
  };
  expect(refused).toThrow(
    new ArgumentError(
      "scope: the body is async; free its tensors with `using` or dispose() instead",
    ),
  );
  expect(live()).toBe(0);
  await new Promise((resolve) => setTimeout(resolve));
});
