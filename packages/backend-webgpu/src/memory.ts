import { ArgumentError, BackendError, fail, StateError, type MemoryCount } from "@transmla/core";

import type { Checks } from "./checks.ts";

/** The backend's handle of memory on the device. */
export interface WebGpuBuffer {
  /** How many bytes were asked for. */
  readonly bytes: number;
  /** @internal The memory behind it; null once it was released. */
  block: Block | null;
}

/** A buffer of the device, in use or in the pool. */
export interface Block {
  /** Names the block in keys of caches. */
  readonly id: number;
  /** The device's buffer. */
  readonly gpu: GPUBuffer;
  /** Its size in bytes: at least what was asked for. */
  readonly size: number;
  /** The last batch of recorded work that uses it. */
  batch: number;
}

/** The smallest size: a binding must not be empty, and the sizes of small tensors should not differ. */
const SMALLEST = 256;

/** Steps of sizes between two powers of two: at most an eighth of a buffer is unused. */
const STEPS = 8;

// The WebGPU usage flags, by value: Node has no GPUBufferUsage.
const COPY_SRC = 0x4;
const COPY_DST = 0x8;
const STORAGE = 0x80;
const MAP_READ = 0x1;

/** Counts of the memory of a backend, in bytes as the device holds them. */
export interface DeviceMemoryCount {
  /** In buffers that are in use. */
  readonly liveBytes: number;
  /** In buffers that wait to be used again. */
  readonly pooledBytes: number;
  /** The most that were live and pooled at one time. */
  readonly peakBytes: number;
}

/** Buffers of a device, pooled by size class up to a cap. */
export class DeviceMemory {
  readonly #device: GPUDevice;
  readonly #checks: Checks;
  readonly #destroy: (block: Block) => void;
  readonly #cap: number;
  readonly #pool = new Map<number, Block[]>();
  readonly #staging = new Map<number, GPUBuffer[]>();
  #nextId = 0;
  #buffers = 0;
  #bytes = 0;
  #live = 0;
  #pooled = 0;
  #peak = 0;

  /**
   * @param device - Whose memory.
   * @param checks - Learns when there is no more.
   * @param destroy - Destroys a block once no recorded work uses it.
   * @param cap - How many bytes may wait in the pool.
   */
  constructor(device: GPUDevice, checks: Checks, destroy: (block: Block) => void, cap: number) {
    this.#device = device;
    this.#checks = checks;
    this.#destroy = destroy;
    this.#cap = cap;
  }

  /** Buffers that are live, and their bytes as requested. */
  get count(): MemoryCount {
    return { buffers: this.#buffers, bytes: this.#bytes };
  }

  /** Bytes on the device. */
  get deviceCount(): DeviceMemoryCount {
    return { liveBytes: this.#live, pooledBytes: this.#pooled, peakBytes: this.#peak };
  }

  /**
   * Uninitialised memory.
   *
   * @param bytes - How many; may be 0.
   */
  allocate(bytes: number): WebGpuBuffer {
    this.#checks.requireOpen("allocate");
    const block = this.#take(bytes);
    this.#buffers++;
    this.#bytes += bytes;
    return { bytes, block };
  }

  /**
   * Gives a buffer back; work recorded before may still use it.
   *
   * @param buffer - What {@link allocate} returned.
   */
  release(buffer: WebGpuBuffer): void {
    const block = liveBlock("release", buffer);
    buffer.block = null;
    this.#buffers--;
    this.#bytes -= buffer.bytes;
    this.#live -= block.size;
    if (this.#pooled + block.size > this.#cap) {
      this.#destroy(block);
      return;
    }
    this.#pooled += block.size;
    const waiting = this.#pool.get(block.size);
    if (waiting) waiting.push(block);
    else this.#pool.set(block.size, [block]);
  }

  /**
   * A buffer that the host can read once work was copied to it; {@link returnStaging} takes it back.
   *
   * @param bytes - At least how many.
   */
  takeStaging(bytes: number): GPUBuffer {
    const size = sizeClass(bytes);
    const usage = MAP_READ | COPY_DST;
    return (
      this.#staging.get(size)?.pop() ??
      this.#checks.checked("read", () => this.#device.createBuffer({ size, usage }))
    );
  }

  /**
   * Takes a staging buffer back, unmapped. Few are kept.
   *
   * @param buffer - What {@link takeStaging} gave.
   */
  returnStaging(buffer: GPUBuffer): void {
    const waiting = this.#staging.get(buffer.size) ?? [];
    this.#staging.set(buffer.size, waiting);
    if (waiting.length < 2 && buffer.size <= 2 ** 24) waiting.push(buffer);
    else buffer.destroy();
  }

  /** Destroys what waits in the pools. */
  trim(): void {
    for (const block of [...this.#pool.values()].flat()) this.#destroy(block);
    for (const buffer of [...this.#staging.values()].flat()) buffer.destroy();
    this.#pool.clear();
    this.#staging.clear();
    this.#pooled = 0;
  }

  #take(bytes: number): Block {
    const { maxBufferSize, maxStorageBufferBindingSize } = this.#device.limits;
    const limit = 4 * Math.floor(Math.min(maxBufferSize, maxStorageBufferBindingSize) / 4);
    if (!(bytes >= 0 && bytes <= limit)) {
      fail(
        BackendError,
        "allocate",
        `a buffer of ${bytes} bytes exceeds the device's limit of ${limit}`,
      );
    }
    const size = Math.min(sizeClass(bytes), limit);
    const pooled = takeFirst(this.#pool.get(size) ?? []);
    if (pooled) this.#pooled -= size;
    const block = pooled ?? this.#create(size, bytes);
    this.#live += block.size;
    this.#peak = Math.max(this.#peak, this.#live + this.#pooled);
    return block;
  }

  #create(size: number, bytes: number): Block {
    const usage = STORAGE | COPY_SRC | COPY_DST;
    const operation = `allocate ${bytes} bytes beside ${this.#bytes}`;
    const gpu = this.#checks.checked(operation, () => this.#device.createBuffer({ size, usage }));
    return { id: this.#nextId++, gpu, size, batch: -1 };
  }
}

/** Takes the oldest block, so that work that is repeated meets the same buffers, and their bind groups, again. */
function takeFirst(blocks: Block[]): Block | undefined {
  let first = 0;
  for (let i = 1; i < blocks.length; i++) if (blocks[i]!.id < blocks[first]!.id) first = i;
  const last = blocks.pop();
  if (first >= blocks.length) return last;
  const taken = blocks[first];
  blocks[first] = last!;
  return taken;
}

/** The size of the buffer that serves a request. */
function sizeClass(bytes: number): number {
  const octave = 2 ** Math.floor(Math.log2(Math.max(bytes, SMALLEST)));
  const step = octave / STEPS;
  return Math.ceil(Math.max(bytes, SMALLEST) / step) * step;
}

/**
 * The memory behind a buffer.
 *
 * @param operation - For the message where it was released.
 * @param buffer - Any buffer.
 */
export function liveBlock(operation: string, buffer: WebGpuBuffer): Block {
  return (
    buffer.block ??
    fail(StateError, operation, "the buffer is not live on this backend: it was released before")
  );
}

/**
 * Throws where a range does not lie inside a buffer.
 *
 * @param operation - For the message.
 * @param buffer - A buffer.
 * @param start - The first byte.
 * @param length - How many.
 */
export function requireRange(
  operation: string,
  buffer: WebGpuBuffer,
  start: number,
  length: number,
): void {
  if (start >= 0 && length >= 0 && start + length <= buffer.bytes) return;
  const range = `bytes ${start}..${start + length}`;
  fail(ArgumentError, operation, `${range} are not inside a buffer of ${buffer.bytes}`);
}
