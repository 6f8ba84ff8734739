import type { Backend } from "@transmla/core";

import type { Gpu, GpuOperand } from "../gpu.ts";
import type { WebGpuBuffer } from "../memory.ts";

/** The memory functions of the backend. */
export type Memory = Pick<Backend<WebGpuBuffer>, "allocate" | "release" | "read" | "write">;

/** Invocations of a workgroup: few on a processor that imitates a GPU, where starting them costs more than their work. */
export const lanesOfAGroup = [32, 256] as const;

/** Buffers that live as long as a factorisation. */
export class Workspace implements Disposable {
  /** Where shaders run. */
  readonly gpu: Gpu;
  /** Invocations of the workgroups that share memory. */
  readonly lanes: (typeof lanesOfAGroup)[number];
  readonly #memory: Memory;
  readonly #taken: WebGpuBuffer[] = [];

  /**
   * @param gpu - Where shaders run.
   * @param memory - Where buffers come from.
   */
  constructor(gpu: Gpu, memory: Memory) {
    this.gpu = gpu;
    this.lanes = gpu.capabilities.cooperative ? 256 : 32;
    this.#memory = memory;
  }

  /**
   * A dense tensor of uninitialised memory.
   *
   * @param shape - Its sizes.
   */
  take(...shape: readonly number[]): GpuOperand {
    const buffer = this.#memory.allocate(4 * shape.reduce((size, length) => size * length, 1));
    this.#taken.push(buffer);
    const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((x, y) => x * y, 1));
    return { buffer, dtype: "f32", shape, strides, offset: 0 };
  }

  /**
   * The bytes of the first elements, after all work recorded before.
   *
   * @param operand - A dense tensor of elements of 4 bytes.
   * @param count - How many elements.
   */
  async read({ buffer }: GpuOperand, count: number): Promise<ArrayBuffer> {
    return (await this.#memory.read(buffer, 0, 4 * count)).slice().buffer;
  }

  /**
   * Copies to the start of a tensor.
   *
   * @param operand - The tensor.
   * @param data - Elements of 4 bytes.
   */
  write({ buffer }: GpuOperand, data: Float32Array | Uint32Array): void {
    this.#memory.write(buffer, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }

  /** Releases what was taken. */
  [Symbol.dispose](): void {
    for (const buffer of this.#taken) this.#memory.release(buffer);
  }
}

/**
 * Workgroups of 64 invocations, one for each element.
 *
 * @param elements - How many.
 */
export function groupsFor(elements: number): number {
  return Math.ceil(elements / 64);
}
