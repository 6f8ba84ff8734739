import {
  asHostArray,
  type Backend,
  BackendError,
  BLOCK_SIZE,
  blockBytes,
  blockElement,
  type BinaryFunction,
  type BlockDType,
  byteLength,
  encodeBlock,
  fail,
  fromBf16Bits,
  fromF16Bits,
  isBlock,
  type Kernels,
  type Operand,
  toBf16Bits,
  toF16Bits,
  type UnaryFunction,
  type View,
} from "@transmla/core";

// Every primitive as plain loops over any strides, in f32: as slow, as short and as inexact as a backend can be.

export type Memory = Uint8Array;

const f32 = Math.fround;

const unary: Record<UnaryFunction, (x: number) => number> = {
  identity: (x) => x,
  exp: Math.exp,
  log: Math.log,
  rsqrt: (x) => 1 / Math.sqrt(x),
  tanh: Math.tanh,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  sin: Math.sin,
  cos: Math.cos,
  abs: Math.abs,
};

const binary: Record<BinaryFunction, (x: number, y: number) => number> = {
  add: (x, y) => x + y,
  sub: (x, y) => x - y,
  mul: (x, y) => x * y,
  div: (x, y) => x / y,
  max: Math.max,
  min: Math.min,
  equal: (x, y) => Number(x === y),
  less: (x, y) => Number(x < y),
};

/** Access to the elements of a buffer as numbers. */
export interface Elements {
  get(at: number): number;
  set(at: number, value: number): void;
}

/** The elements of an operand's whole buffer. */
export function elements({ buffer, dtype }: Operand<Memory>): Elements {
  if (isBlock(dtype)) {
    const start = (at: number): number => Math.floor(at / BLOCK_SIZE) * blockBytes[dtype];
    return {
      get: (at) => f32(blockElement(dtype, buffer, start(at), at % BLOCK_SIZE)),
      set: () => fail(BackendError, "plain", `${dtype} is written by blocks`),
    };
  }
  const host = asHostArray(buffer, dtype);
  if (!(host instanceof Uint16Array)) {
    return { get: (at) => host[at]!, set: (at, value) => (host[at] = value) };
  }
  const [widen, round] = dtype === "f16" ? [fromF16Bits, toF16Bits] : [fromBf16Bits, toBf16Bits];
  return { get: (at) => widen(host[at]!), set: (at, value) => (host[at] = round(value)) };
}

const exact = (x: number): number => x;

/** How arithmetic rounds before it stores: integers do not, floats to f32. */
const roundingOf = ({ dtype }: View): ((x: number) => number) =>
  dtype === "i32" || dtype === "u32" ? exact : f32;

/** Visits every index of a shape with its position in each operand. */
export function walk(
  shape: readonly number[],
  operands: readonly View[],
  visit: (...positions: number[]) => void,
): void {
  const step = (axis: number, positions: number[]): void => {
    if (axis === shape.length) return visit(...positions);
    for (let i = 0; i < shape[axis]!; i++) {
      step(
        axis + 1,
        positions.map((at, n) => at + i * operands[n]!.strides[axis]!),
      );
    }
  };
  step(
    0,
    operands.map(({ offset }) => offset),
  );
}

const kernels: Kernels<Memory> = {
  fill(out, _, { start, step }) {
    const [o, width] = [elements(out), out.shape.at(-1) ?? 1];
    walk(out.shape, [out], (i) => o.set(i, f32(start + f32(step * ((i - out.offset) % width)))));
  },
  copy(out, [a], { accumulate }) {
    if (isBlock(out.dtype)) return copyToBlocks(out, a!);
    const [o, x] = [elements(out), elements(a!)];
    walk(out.shape, [out, a!], (i, j) => o.set(i, accumulate ? o.get(i) + x.get(j) : x.get(j)));
  },
  unary(out, [a], { fn, scale, shift }) {
    const [o, x] = [elements(out), elements(a!)];
    walk(out.shape, [out, a!], (i, j) => {
      o.set(i, f32(unary[fn](f32(f32(scale * x.get(j)) + shift))));
    });
  },
  binary(out, [a, b], { fn }) {
    const [o, x, y] = [elements(out), elements(a!), elements(b!)];
    const round = roundingOf(out);
    const f = fn === "mul" && round === exact ? Math.imul : binary[fn];
    walk(out.shape, [out, a!, b!], (i, j, k) => o.set(i, round(f(x.get(j), y.get(k)))));
  },
  reduce(out, [a], { fn }) {
    const [o, x, width] = [elements(out), elements(a!), a!.shape.at(-1)!];
    const round = roundingOf(out);
    const f = binary[fn === "sum" ? "add" : "max"];
    walk(out.shape, [out, a!], (i, j) => {
      let result = fn === "sum" ? 0 : -Infinity;
      for (let n = 0; n < width; n++) result = round(f(result, x.get(j + n)));
      o.set(i, result);
    });
  },
  matmul(out, [a, b]) {
    const [o, x, y] = [elements(out), elements(a!), elements(b!)];
    const [m, k] = a!.shape.slice(-2) as [number, number];
    const n = b!.shape.at(-1)!;
    const [aRow, aColumn] = a!.strides.slice(-2) as [number, number];
    const [bRow, bColumn] = b!.strides.slice(-2) as [number, number];
    walk(out.shape.slice(0, -2), [out, a!, b!], (first, left, right) => {
      for (let row = 0; row < m; row++) {
        for (let column = 0; column < n; column++) {
          let sum = 0;
          for (let i = 0; i < k; i++) {
            const factor = x.get(left + row * aRow + i * aColumn);
            sum = f32(sum + f32(factor * y.get(right + i * bRow + column * bColumn)));
          }
          o.set(first + row * n + column, sum);
        }
      }
    });
  },
  gather(out, [table, rows]) {
    const [o, x, indices] = [elements(out), elements(table!), elements(rows!)];
    const [n, rowStep] = [table!.shape.at(-2)!, table!.strides.at(-2)!];
    const firstRow = { ...view(table!), strides: table!.strides.toSpliced(-2, 1, 0) };
    const eachRow = { ...view(rows!), strides: [...rows!.strides, 0] };
    walk(out.shape, [out, firstRow, eachRow], (i, j, r) => {
      const row = indices.get(r);
      o.set(i, row >= 0 && row < n ? x.get(j + row * rowStep) : 0);
    });
  },
  topK(out, [a], { k }) {
    const [o, x] = [elements(out), elements(a!)];
    walk(out.shape.slice(0, -1), [out, a!], (i, j) => {
      const order = Array.from({ length: a!.shape.at(-1)! }, (_, n) => n);
      order.sort(
        (m, n) =>
          Number(x.get(j + n) > x.get(j + m)) - Number(x.get(j + n) < x.get(j + m)) || m - n,
      );
      for (let n = 0; n < k; n++) o.set(i + n, order[n]!);
    });
  },
};

function copyToBlocks(out: Operand<Memory>, a: Operand<Memory>): void {
  const dtype = out.dtype as BlockDType;
  const width = out.shape.at(-1)!;
  const x = elements(a);
  walk(out.shape.slice(0, -1), [out, a], (to, from) => {
    for (let start = 0; start < width; start += BLOCK_SIZE) {
      const at = byteLength(dtype, to + start);
      if (a.dtype === dtype) {
        const source = byteLength(dtype, from + start);
        out.buffer.set(a.buffer.slice(source, source + blockBytes[dtype]), at);
        continue;
      }
      const numbers = Array.from({ length: BLOCK_SIZE }, (_, i) =>
        start + i < width ? x.get(from + (start + i) * a.strides.at(-1)!) : 0,
      );
      encodeBlock(dtype, numbers, 0, out.buffer, at);
    }
  });
}

const view = ({ dtype, shape, strides, offset }: View): View => ({ dtype, shape, strides, offset });

/**
 * A backend in plain loops.
 *
 * @param overrides - Kernels that replace its own or are added to them.
 */
export function plainBackend(overrides: Partial<Kernels<Memory>> = {}): Backend<Memory> {
  const live = new Set<Memory>();
  return {
    name: "plain",
    kernels: { ...kernels, ...overrides },
    allocate(bytes) {
      if (bytes > 2 ** 31) fail(BackendError, "allocate", `${bytes} bytes are more than there are`);
      const buffer = new Uint8Array(bytes).fill(0x5a); // memory is not zeroed
      live.add(buffer);
      return buffer;
    },
    release(buffer) {
      if (!live.delete(buffer)) fail(BackendError, "release", "the buffer is not live");
      buffer.fill(0xa5); // whoever still reads it shall notice
    },
    write(buffer, data) {
      buffer.set(data);
    },
    read(buffer, byteOffset, byteLength) {
      return Promise.resolve(buffer.slice(byteOffset, byteOffset + byteLength));
    },
    memory() {
      return { buffers: live.size, bytes: [...live].reduce((sum, { length }) => sum + length, 0) };
    },
    dispose() {
      live.clear();
    },
  };
}
