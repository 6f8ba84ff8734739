import { fc, test as prop } from "@fast-check/vitest";
import { ArgumentError, BackendError, matmul, scope, StateError, tensor } from "@transmla/core";
import { describe, expect, test } from "vitest";

import { cpuBackend, type CpuBuffer } from "../src/index.ts";
import { Memory } from "../src/memory.ts";

const PAGE = 65_536;

/** What a call throws; fails the test when it does not. */
function thrownBy(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return error;
  }
  return expect.unreachable("nothing was thrown");
}

describe("memory", () => {
  prop.prop([fc.array(fc.integer({ min: 0, max: 3 * PAGE }), { maxLength: 20 })])(
    "growth keeps contents, blocks are aligned, and counts return to zero",
    (sizes) => {
      const memory = new Memory(2 ** 32);
      const buffers = sizes.map((size, i) => {
        const buffer = memory.allocate(size);
        memory.bytes("write", buffer, 0, size).fill(i + 1);
        return buffer;
      });
      const holds = (buffer: CpuBuffer, value: number): boolean =>
        memory.bytes("read", buffer, 0, buffer.byteLength).every((byte) => byte === value);
      const bytes = sizes.reduce((sum, size) => sum + size, 0);
      expect(memory.count).toEqual({ buffers: sizes.length, bytes });
      buffers.forEach((buffer, i) => {
        expect(buffer.byteOffset % 64).toBe(0);
        expect(holds(buffer, i + 1)).toBe(true);
        memory.release(buffer);
      });
      expect(memory.count).toEqual({ buffers: 0, bytes: 0 });
    },
  );

  test("typed arrays cover the memory, also after growth", () => {
    const memory = new Memory(2 ** 32);
    const before = memory.f32;
    const { byteOffset } = memory.allocate(5 * PAGE);
    expect(before).toHaveLength(0); // detached
    memory.f32[byteOffset / 4 + 1] = 1;
    expect(memory.i32[byteOffset / 4 + 1]).toBe(0x3f800000);
    expect(memory.u32[byteOffset / 4 + 1]).toBe(0x3f800000);
    expect(memory.u16[byteOffset / 2 + 3]).toBe(0x3f80);
  });

  test("released memory is handed out again before the memory grows", () => {
    const memory = new Memory(PAGE);
    const first = memory.allocate(PAGE / 2);
    const second = memory.allocate(PAGE / 2);
    memory.release(first);
    memory.release(second);
    expect(memory.allocate(PAGE).byteOffset).toBe(0);
  });

  test("scratch is not counted, and is free again once it is given back", () => {
    const memory = new Memory(PAGE);
    const held = memory.allocate(64);
    for (let round = 0; round < 3; round++) {
      const all = memory.scratch(PAGE / 4 - 16);
      expect(all * 4).toBe(64);
      expect(memory.count).toEqual({ buffers: 1, bytes: 64 });
      memory.releaseScratch();
    }
    memory.release(held);
  });

  test("an allocation beyond the limit names the sizes", () => {
    const memory = new Memory(4 * PAGE + 1);
    memory.allocate(100);
    memory.allocate(2 * PAGE);
    expect(thrownBy(() => memory.allocate(2 * PAGE))).toEqual(
      new BackendError(
        "allocate: no room for 131072 bytes beside 131172 live bytes in 2 buffers: the limit is 262144",
      ),
    );
    memory.allocate(PAGE); // what fits still does
  });
});

describe("cpuBackend", () => {
  test("refuses a limit outside the address space", async () => {
    for (const maxBytes of [0, 65_535, 2 ** 32 + 1, Number.NaN]) {
      await expect(cpuBackend({ maxBytes })).rejects.toEqual(
        new ArgumentError(`cpuBackend: maxBytes ${maxBytes} is not from 65536 to 4294967296`),
      );
    }
  });

  test("a buffer that is not live cannot be released, read or written", async () => {
    const backend = await cpuBackend();
    const other = await cpuBackend();
    const released = backend.allocate(8);
    backend.release(released);
    const problem =
      "the buffer is not live on this backend: it was released before, or is another backend's";
    for (const buffer of [released, other.allocate(8), { byteOffset: 0, byteLength: 8 }]) {
      expect(thrownBy(() => backend.release(buffer))).toEqual(
        new StateError(`release: ${problem}`),
      );
      expect(thrownBy(() => backend.write(buffer, new Uint8Array(8)))).toEqual(
        new StateError(`write: ${problem}`),
      );
      await expect(backend.read(buffer, 0, 8)).rejects.toEqual(new StateError(`read: ${problem}`));
    }
    expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
  });

  test("reads and writes stay inside the buffer", async () => {
    const backend = await cpuBackend();
    const buffer = backend.allocate(8);
    expect(thrownBy(() => backend.write(buffer, new Uint8Array(9)))).toEqual(
      new ArgumentError("write: bytes 0..9 are not inside a buffer of 8"),
    );
    await expect(backend.read(buffer, 4, 5)).rejects.toEqual(
      new ArgumentError("read: bytes 4..9 are not inside a buffer of 8"),
    );
    await expect(backend.read(buffer, -1, 2)).rejects.toEqual(
      new ArgumentError("read: bytes -1..1 are not inside a buffer of 8"),
    );
  });

  test("a kernel that finds no scratch throws, gives back what it took, and the backend goes on", async () => {
    const backend = await cpuBackend({ maxBytes: 3 * PAGE });
    const before = backend.memory();
    scope(() => {
      const x = tensor(backend, new Float32Array(128 * 128), [128, 128]); // one page, and one for the product
      expect(thrownBy(() => matmul(x, x))).toBeInstanceOf(BackendError);
      const corner = x.slice(0, 0, 4).slice(1, 0, 4);
      matmul(corner, corner); // 64 bytes
      backend.release(backend.allocate(PAGE - 64));
    });
    expect(backend.memory()).toEqual(before);
  });

  test("after dispose every use throws", async () => {
    const backend = await cpuBackend();
    const x = tensor(backend, [1, 2], [2]);
    const { buffer } = x;
    backend.dispose();
    const gone = (operation: string): StateError =>
      new StateError(`${operation}: the cpu backend was disposed of`);
    const view = { dtype: "f32", shape: [2], strides: [1], offset: 0, buffer } as const;
    expect(thrownBy(() => backend.allocate(4))).toEqual(gone("allocate"));
    expect(thrownBy(() => backend.allocate(0))).toEqual(gone("allocate"));
    expect(thrownBy(() => backend.release(buffer as never))).toEqual(gone("release"));
    expect(thrownBy(() => backend.write(buffer as never, new Uint8Array(4)))).toEqual(
      gone("write"),
    );
    await expect(backend.read(buffer as never, 0, 4)).rejects.toEqual(gone("read"));
    const out = { ...view, buffer: buffer as never };
    expect(thrownBy(() => backend.kernels.copy(out, [out], {}))).toEqual(gone("copy"));
    expect(backend.memory()).toEqual({ buffers: 0, bytes: 0 });
    backend.dispose();
  });
});
