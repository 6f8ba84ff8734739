import { describe, expect, test } from "vitest";
import wabt from "wabt";

import { block, branchIf, loop, repeat, until, when } from "../src/wasm/control.ts";
import type { Expression, I32, V128, ValueType } from "../src/wasm/expression.ts";
import { increase, ModuleBuilder, smaller } from "../src/wasm/module.ts";
import { f32, f64, i32 } from "../src/wasm/scalar.ts";
import { canCompile, hasRelaxedSimd } from "../src/wasm/support.ts";
import { f32x4, f64x2, i32x4, v128 } from "../src/wasm/vector.ts";
import { webAssembly, type WebAssemblyFunction } from "../src/webassembly.ts";

// Every instruction is executed and compared with what the specification says that it does.

const memory = new webAssembly.Memory({ initial: 1, maximum: 1 });
const view = new DataView(memory.buffer);

function instantiate(module: ModuleBuilder): Readonly<Record<string, WebAssemblyFunction>> {
  const imports = { env: { memory } };
  return new webAssembly.Instance(new webAssembly.Module(module.bytes()), imports).exports;
}

/** The value of an expression of one integer, which may read the memory. */
function run(expression: (x: I32) => Expression<ValueType>, argument = 0): number {
  const module = new ModuleBuilder();
  const { type } = expression(i32.const(0));
  module.define("run", {
    parameters: { x: "i32" },
    result: type,
    body: (_, { x }) => [expression(x)],
  });
  return instantiate(module)["run"]!(argument)!;
}

/** The lanes of a vector expression. */
function lanes(expression: V128, type: "f32" | "f64" | "i32"): number[] {
  const module = new ModuleBuilder();
  module.define("run", { parameters: {}, body: () => [v128.store(i32.const(1024), expression)] });
  instantiate(module)["run"]!();
  if (type === "f64") return [0, 8].map((at) => view.getFloat64(1024 + at, true));
  const at = [1024, 1028, 1032, 1036];
  return at.map((i) => (type === "i32" ? view.getInt32(i, true) : view.getFloat32(i, true)));
}

describe("i32", () => {
  test.each([
    ["add wraps around", (x: I32) => i32.add(x, 2 ** 31 - 1), 1, -(2 ** 31)],
    ["sub", (x: I32) => i32.sub(x, 5), 3, -2],
    ["mul", (x: I32) => i32.mul(x, -3), 7, -21],
    ["and", (x: I32) => i32.and(x, -4), 7, 4],
    ["shl", (x: I32) => i32.shl(x, 4), 3, 48],
    ["shrU", (x: I32) => i32.shrU(x, 28), -1, 15],
    ["eqz", (x: I32) => i32.eqz(x), 0, 1],
    ["eq", (x: I32) => i32.eq(x, 3), 3, 1],
    ["ne", (x: I32) => i32.ne(x, 3), 3, 0],
    ["ltS takes -1 for less than 0", (x: I32) => i32.ltS(x, 0), -1, 1],
    ["ltU takes -1 for the largest", (x: I32) => i32.ltU(x, 5), -1, 0],
    ["geU", (x: I32) => i32.geU(x, 5), -1, 1],
    ["select of true", (x: I32) => i32.select(x, 10, 20), 1, 10],
    ["select of false", (x: I32) => i32.select(x, 10, 20), 0, 20],
    ["smaller", (x: I32) => smaller(x, 6), 9, 6],
  ])("%s", (_, expression, argument, expected) => {
    expect(run(expression, argument)).toBe(expected);
  });

  test("loads", () => {
    view.setUint32(16, 0x8765_4321, true);
    expect(run((x) => i32.load(x, 16)) >>> 0).toBe(0x8765_4321);
    expect(run((x) => i32.load16S(x, 2), 16)).toBe(0x8765 - 0x1_0000);
    expect(run((x) => i32.load16U(x, 2), 16)).toBe(0x8765);
  });
});

test("f32", () => {
  view.setFloat32(0, 2.5, true);
  const [x, y] = [f32.load(i32.const(0)), f32.const(-0.5)];
  expect(run(() => f32.add(x, y))).toBe(2);
  expect([run(() => f32.eq(x, y)), run(() => f32.eq(x, x))]).toEqual([0, 1]);
  expect(run(() => f32.sub(x, y))).toBe(3);
  expect(run(() => f32.mul(x, y))).toBe(-1.25);
  expect(run(() => f32.div(x, y))).toBe(-5);
  expect(run(() => f32.max(x, y))).toBe(2.5);
  expect(run(() => f32.sqrt(f32.const(9)))).toBe(3);
});

test("f64", () => {
  view.setFloat64(0, 2.5, true);
  const [x, y] = [f64.load(i32.const(0)), f64.const(1e-300)];
  expect(run(() => f64.add(x, x))).toBe(5);
  expect(run(() => f64.sub(x, f64.const(1)))).toBe(1.5);
  expect(run(() => f64.mul(x, y))).toBe(2.5e-300);
});

test("stores", () => {
  const module = new ModuleBuilder();
  module.define("run", {
    parameters: { at: "i32" },
    body: (_, { at }) => [
      i32.store(at, -2, 0),
      f32.store(at, f32.const(0.5), 4),
      f64.store(at, f64.const(3), 8),
      v128.store64Lane(at, f64x2.splat(f64.const(7)), 1, 16),
    ],
  });
  instantiate(module)["run"]!(64);
  expect(view.getInt32(64, true)).toBe(-2);
  expect(view.getFloat32(68, true)).toBe(0.5);
  expect(view.getFloat64(72, true)).toBe(3);
  expect(view.getFloat64(80, true)).toBe(7);
});

describe("v128", () => {
  const at = i32.const(128);
  const halves = [1, 0xffff, 3, 4, 5, 6, 7, 8];
  const write = (): void => halves.forEach((x, i) => view.setUint16(128 + 2 * i, x, true));

  test("loads", () => {
    write();
    const word = 0xffff_0001 | 0;
    const next = 0x0004_0003;
    expect(lanes(v128.load(at), "i32")).toEqual([word, next, 0x0006_0005, 0x0008_0007]);
    expect(lanes(v128.load16x4S(at), "i32")).toEqual([1, -1, 3, 4]);
    expect(lanes(v128.load16x4U(at, 8), "i32")).toEqual([5, 6, 7, 8]);
    expect(lanes(v128.load32Splat(at), "i32")).toEqual([word, word, word, word]);
    expect(lanes(v128.load64Splat(at), "i32")).toEqual([word, next, word, next]);
    expect(lanes(v128.load32Zero(at), "i32")).toEqual([word, 0, 0, 0]);
    expect(lanes(v128.load64Zero(at), "i32")).toEqual([word, next, 0, 0]);
  });

  test("bits", () => {
    const [x, y] = [i32x4.const(0b1100), i32x4.const(0b1010)];
    expect(lanes(v128.and(x, y), "i32")[0]).toBe(0b1000);
    expect(lanes(v128.or(x, y), "i32")[0]).toBe(0b1110);
    expect(lanes(v128.xor(x, y), "i32")[0]).toBe(0b0110);
    expect(lanes(v128.bitselect(x, y, i32x4.const(0b0110)), "i32")[3]).toBe(0b1100);
  });

  test("shuffle32", () => {
    write();
    const x = v128.load16x4S(at);
    expect(lanes(v128.shuffle32(x, i32x4.const(9), [3, 0, 4, 1]), "i32")).toEqual([4, 1, 9, -1]);
  });
});

test("i32x4", () => {
  const x = i32x4.replaceLane(i32x4.const(3), 2, -5);
  expect(lanes(x, "i32")).toEqual([3, 3, -5, 3]);
  expect(lanes(i32x4.add(x, i32x4.const(1)), "i32")).toEqual([4, 4, -4, 4]);
  expect(lanes(i32x4.shl(x, 2), "i32")).toEqual([12, 12, -20, 12]);
});

test("f32x4", () => {
  const [x, y] = [f32x4.splat(f32.const(-6)), f32x4.const(4)];
  const first = (vector: V128): number => lanes(vector, "f32")[0]!;
  expect(lanes(x, "f32")).toEqual([-6, -6, -6, -6]);
  expect(first(f32x4.add(x, y))).toBe(-2);
  expect(first(f32x4.sub(x, y))).toBe(-10);
  expect(first(f32x4.mul(x, y))).toBe(-24);
  expect(first(f32x4.div(x, y))).toBe(-1.5);
  expect(first(f32x4.min(x, y))).toBe(-6);
  expect(first(f32x4.max(x, y))).toBe(4);
  expect(first(f32x4.abs(x))).toBe(6);
  expect(lanes(f32x4.ge(y, x), "i32")).toEqual([-1, -1, -1, -1]);
  expect(run(() => f32x4.extractLane(y, 3))).toBe(4);
});

test("f64x2", () => {
  const [x, y] = [f64x2.splat(f64.const(1e-200)), f64x2.const(3)];
  expect(lanes(f64x2.mul(x, y), "f64")).toEqual([3e-200, 3e-200]);
  expect(lanes(f64x2.add(y, y), "f64")).toEqual([6, 6]);
  expect(run(() => f64x2.extractLane(y, 1))).toBe(3);
});

test.skipIf(!hasRelaxedSimd())("relaxed multiplication and addition", () => {
  const [x, y] = [f32x4.const(3), f32x4.const(5)];
  expect(lanes(f32x4.relaxedMadd(x, y, y), "f32")).toEqual([20, 20, 20, 20]);
  const z = f64x2.const(0.5);
  expect(lanes(f64x2.relaxedMadd(z, z, z), "f64")).toEqual([0.75, 0.75]);
});

describe("control", () => {
  /** Runs statements on a counter that starts at 0, with a limit. */
  function count(
    body: (counter: Parameters<typeof increase>[0], limit: I32) => ReturnType<typeof when>[],
    limit: number,
  ): number {
    const module = new ModuleBuilder();
    module.define("run", {
      parameters: { limit: "i32" },
      result: "i32",
      body: (scope, { limit }) => {
        const counter = scope.local("i32");
        return [...body(counter, limit), counter];
      },
    });
    return instantiate(module)["run"]!(limit)!;
  }

  test("when", () => {
    const choose = (limit: number): number =>
      count((n, x) => [when(x, [n.set(i32.const(1))], [n.set(i32.const(2))])], limit);
    expect([choose(5), choose(0)]).toEqual([1, 2]);
    expect(count((n, x) => [when(x, [increase(n, 3)])], 0)).toBe(0);
  });

  test("repeat runs at least once, until perhaps never", () => {
    expect(
      [0, 1, 5].map((end) => count((n, x) => [repeat(i32.ltU(n, x), increase(n, 1))], end)),
    ).toEqual([1, 1, 5]);
    expect([0, 1, 5].map((end) => count((n, x) => [until(n, x, increase(n, 1))], end))).toEqual([
      0, 1, 5,
    ]);
  });

  test("a branch leaves a block and repeats a loop", () => {
    const body = (n: Parameters<typeof increase>[0], x: I32): ReturnType<typeof when>[] => [
      block(loop(increase(n, 2), branchIf(1, i32.geU(n, x)), branchIf(0, i32.const(1)))),
    ];
    expect(count(body, 7)).toBe(8);
  });
});

test("functions have variables, call one another, and may be private", () => {
  const module = new ModuleBuilder();
  const store = module.define("store", {
    parameters: { value: "i32", at: "i32" },
    exported: false,
    body: (_, { value, at }) => [i32.store(at, value)],
  });
  module.define("storeTwice", {
    parameters: { value: "i32" },
    body: (scope, { value }) => {
      const [a, b] = scope.locals("i32", 2);
      return [
        a!.set(b!.tee(i32.add(value, value))),
        store({ at: i32.const(256), value: a! }),
        store({ at: i32.const(260), value: b! }),
      ];
    },
  });
  const exported = instantiate(module);
  expect(Object.keys(exported)).toEqual(["storeTwice"]);
  exported["storeTwice"]!(21);
  expect([view.getInt32(256, true), view.getInt32(260, true)]).toEqual([42, 42]);
});

test("a module as text", async () => {
  const module = new ModuleBuilder();
  module.define("sum", {
    parameters: { from: "i32", end: "i32" },
    body: (scope, { from, end }) => {
      const total = scope.local("v128");
      return [
        until(from, end, total.set(f32x4.add(total, v128.load(from))), increase(from, 16)),
        v128.store(from, total),
      ];
    },
  });
  const tools = await wabt();
  const parsed = tools.readWasm(module.bytes(), { simd: true });
  expect(parsed.toText({ foldExprs: true })).toMatchInlineSnapshot(`
    "(module
      (type (;0;) (func (param i32 i32)))
      (import "env" "memory" (memory (;0;) 1))
      (func (;0;) (type 0) (param i32 i32)
        (local v128)
        (if  ;; label = @1
          (i32.ne
            (local.get 0)
            (local.get 1))
          (then
            (loop  ;; label = @2
              (local.set 2
                (f32x4.add
                  (local.get 2)
                  (v128.load
                    (local.get 0))))
              (local.set 0
                (i32.add
                  (local.get 0)
                  (i32.const 16)))
              (br_if 0 (;@2;)
                (i32.ne
                  (local.get 0)
                  (local.get 1))))))
        (v128.store
          (local.get 0)
          (local.get 2)))
      (export "sum" (func 0)))
    "
  `);
  parsed.destroy();
});

test("support is found out by compiling", () => {
  expect(canCompile()).toBe(true);
  const { Module } = webAssembly;
  const refuse = (): never => {
    throw new Error("Content-Security-Policy");
  };
  const open = webAssembly as { Module: unknown };
  open.Module = refuse;
  expect(canCompile()).toBe(false);
  open.Module = Module;
});
