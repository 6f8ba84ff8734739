import { ArgumentError, BackendError, fail, StateError, type MemoryCount } from "@transmla/core";

import { Allocator, type Block } from "./allocator.ts";
import { emit, kernelNames, Kernels, type Target, type Worth } from "./simd/kernels.ts";
import { revectorizes } from "./simd/revectorize.ts";
import { Pool } from "./threads/pool.ts";
import { canShare } from "./threads/start.ts";
import { canCompile, hasRelaxedSimd } from "./wasm/support.ts";
import { webAssembly, type WebAssemblyMemory } from "./webassembly.ts";

/** The unit of WebAssembly memories, in bytes. */
const PAGE = 65_536;

/** What 32-bit addresses reach: 65,536 pages. */
export const ADDRESS_SPACE: number = 2 ** 32;

/** The memory grows by half of itself, but by no more than this at once. */
const LARGEST_STEP = 2 ** 28;

/** A range of the backend's memory, in bytes. */
export interface CpuBuffer {
  /** The first byte: a multiple of 64. */
  readonly byteOffset: number;
  /** How many bytes were asked for. */
  readonly byteLength: number;
}

/** A buffer as its memory knows it. */
class OwnedBuffer implements CpuBuffer {
  readonly byteOffset: number;
  readonly byteLength: number;
  /** `null` for a buffer without bytes. */
  readonly block: Block | null;
  /** `null` when it was released. */
  owner: Memory | null;

  constructor(owner: Memory, block: Block | null, byteLength: number) {
    this.owner = owner;
    this.block = block;
    this.byteOffset = block?.offset ?? 0;
    this.byteLength = byteLength;
  }
}

/** What computes in a {@link Memory}. */
export interface KernelOptions {
  /** Whether there are WebAssembly kernels, where the engine compiles them; `true` by default. */
  readonly webAssembly?: boolean;
  /** Whether kernels give the same bits on all machines; `false` by default. */
  readonly deterministic?: boolean;
  /** Whether V8 is asked to join vectors in pairs; `false` by default. */
  readonly revectorize?: boolean;
  /** How many threads compute, where memory can be shared; one by default. */
  readonly threads?: number;
  /** How long a thread's share of the work has to take at least, in nanoseconds; tests share everything. */
  readonly worth?: Worth;
}

/**
 * One WebAssembly memory, the buffers in it, and typed arrays over all of it.
 *
 * Growth detaches typed arrays: kernels take `f32` and the like after their last call of {@link scratch}.
 */
export class Memory {
  /** The whole memory as f32. */
  f32: Float32Array = new Float32Array(0);
  /** The whole memory as f64. */
  f64: Float64Array = new Float64Array(0);
  /** The whole memory as i32. */
  i32: Int32Array = new Int32Array(0);
  /** The whole memory as u32. */
  u32: Uint32Array = new Uint32Array(0);
  /** The whole memory as u16: the bits of f16 and bf16. */
  u16: Uint16Array = new Uint16Array(0);
  /** The whole memory as bytes: blocks. */
  u8: Uint8Array = new Uint8Array(0);

  /** How far the memory may grow, in bytes. */
  readonly limit: number;

  /** The WebAssembly kernels over this memory, where there are any. */
  simd: Kernels | null;

  readonly #allocator = new Allocator();
  readonly #scratch: Block[] = [];
  #liveBuffers = 0;
  #liveBytes = 0;
  #memory: WebAssemblyMemory | null;
  #pool: Pool | null = null;

  /**
   * @param maxBytes - How far the memory may grow, in bytes: from 64 KiB to 4 GiB, rounded down to whole pages.
   * @param options - What computes in it.
   */
  constructor(maxBytes: number, options: KernelOptions = {}) {
    const { webAssembly: allowed = true, threads = 1 } = options;
    check(maxBytes, threads);
    this.limit = Math.floor(maxBytes / PAGE) * PAGE;
    const compiles = allowed && canCompile();
    const limits = { initial: 1, maximum: this.limit / PAGE };
    const shared = compiles && threads > 1 && canShare() ? trySharedMemory(limits) : null;
    this.#memory = shared ?? new webAssembly.Memory(limits);
    this.simd = compiles ? this.#kernels(this.#memory, options, shared ? threads : 1) : null;
    this.#allocator.extend(PAGE);
    this.#refresh(this.#memory.buffer);
  }

  /** Buffers that are live, and their bytes as requested. Scratch is not counted. */
  get count(): MemoryCount {
    return { buffers: this.#liveBuffers, bytes: this.#liveBytes };
  }

  /**
   * Reserves uninitialised memory.
   *
   * @param bytes - How many; may be 0.
   */
  allocate(bytes: number): CpuBuffer {
    this.requireOpen("allocate");
    const block = bytes === 0 ? null : this.#reserve(bytes);
    this.#liveBuffers++;
    this.#liveBytes += bytes;
    return new OwnedBuffer(this, block, bytes);
  }

  /**
   * Gives a buffer back.
   *
   * @param buffer - What {@link allocate} returned. Releasing it twice throws a `StateError`.
   */
  release(buffer: CpuBuffer): void {
    this.requireOpen("release");
    const owned = this.#requireLive("release", buffer);
    if (owned.block) this.#allocator.release(owned.block);
    owned.owner = null;
    this.#liveBuffers--;
    this.#liveBytes -= owned.byteLength;
  }

  /**
   * A view of bytes of a buffer, valid until the memory grows.
   *
   * @param operation - For the message of the error when the range or the buffer is not valid.
   * @param buffer - A live buffer.
   * @param start - The first byte, counted from the start of the buffer.
   * @param length - How many.
   */
  bytes(operation: string, buffer: CpuBuffer, start: number, length: number): Uint8Array {
    const memory = this.requireOpen(operation);
    this.#requireLive(operation, buffer);
    if (length === 0) return new Uint8Array(0);
    if (!(start >= 0 && length > 0 && start + length <= buffer.byteLength)) {
      const range = `bytes ${start}..${start + length}`;
      fail(ArgumentError, operation, `${range} are not inside a buffer of ${buffer.byteLength}`);
    }
    return new Uint8Array(memory.buffer, buffer.byteOffset + start, length);
  }

  /**
   * Memory for a kernel until {@link releaseScratch}; not counted as live.
   *
   * @param elements - How many elements of 4 bytes.
   * @returns The index of the first one in `f32`, `i32` and `u32`.
   */
  scratch(elements: number): number {
    if (elements === 0) return 0;
    const block = this.#reserve(elements * 4);
    this.#scratch.push(block);
    return block.offset / 4;
  }

  /** Gives all scratch back. */
  releaseScratch(): void {
    for (const block of this.#scratch) this.#allocator.release(block);
    this.#scratch.length = 0;
  }

  /**
   * Throws a `StateError` after {@link dispose}.
   *
   * @param operation - For the message.
   */
  requireOpen(operation: string): WebAssemblyMemory {
    return this.#memory ?? fail(StateError, operation, "the cpu backend was disposed of");
  }

  /** Drops the memory. Buffers in it are gone. */
  dispose(): void {
    this.#pool?.dispose();
    this.#pool = null;
    this.#memory = null;
    this.simd = null;
    this.#liveBuffers = 0;
    this.#liveBytes = 0;
    this.#refresh(new ArrayBuffer(0));
  }

  #kernels(
    memory: WebAssemblyMemory,
    { deterministic = false, revectorize = false, worth }: KernelOptions,
    threads: number,
  ): Kernels {
    const relaxed = !deterministic && hasRelaxedSimd();
    const target: Target = {
      relaxed,
      revectorized: revectorize && revectorizes(relaxed),
      ...(threads > 1 && { memory: { shared: true, maximum: ADDRESS_SPACE / PAGE } }),
    };
    if (threads === 1) return new Kernels(memory, target);
    this.#pool = new Pool(
      {
        shared: memory,
        reserve: (bytes) => this.#reserve(bytes),
        release: (block) => this.#allocator.release(block),
      },
      (kernel) => emit(kernelNames[kernel]!, target),
    );
    return new Kernels(memory, target, { threads, pool: this.#pool, ...(worth && { worth }) });
  }

  #requireLive(operation: string, buffer: CpuBuffer): OwnedBuffer {
    if (buffer instanceof OwnedBuffer && buffer.owner === this) return buffer;
    return fail(
      StateError,
      operation,
      "the buffer is not live on this backend: it was released before, or is another backend's",
    );
  }

  #reserve(bytes: number): Block {
    const memory = this.requireOpen("allocate");
    const block = this.#allocator.allocate(bytes);
    if (block) return block;
    this.#grow(memory, bytes);
    return this.#allocator.allocate(bytes)!;
  }

  /** Grows so that the free bytes at the end hold a block. */
  #grow(memory: WebAssemblyMemory, bytes: number): void {
    const size = memory.buffer.byteLength;
    const needed = Math.ceil((bytes - this.#allocator.freeAtEnd) / PAGE);
    const room = (this.limit - size) / PAGE;
    const generous = Math.ceil(Math.min(size / 2, LARGEST_STEP) / PAGE);
    const grown =
      needed <= room &&
      (tryGrow(memory, Math.min(Math.max(needed, generous), room)) || tryGrow(memory, needed));
    if (!grown) {
      const { buffers, bytes: live } = this.count;
      const limit =
        needed > room ? `the limit is ${this.limit}` : `the engine refused to grow beyond ${size}`;
      fail(
        BackendError,
        "allocate",
        `no room for ${bytes} bytes beside ${live} live bytes in ${buffers} buffers: ${limit}`,
      );
    }
    this.#allocator.extend(memory.buffer.byteLength - size);
    this.#refresh(memory.buffer);
  }

  #refresh(buffer: ArrayBufferLike): void {
    this.f32 = new Float32Array(buffer);
    this.f64 = new Float64Array(buffer);
    this.i32 = new Int32Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.u8 = new Uint8Array(buffer);
  }
}

function check(maxBytes: number, threads: number): void {
  if (!(maxBytes >= PAGE && maxBytes <= ADDRESS_SPACE)) {
    const problem = `maxBytes ${maxBytes} is not from ${PAGE} to ${ADDRESS_SPACE}`;
    fail(ArgumentError, "cpuBackend", problem);
  }
  if (!(Number.isInteger(threads) && threads >= 1)) {
    fail(ArgumentError, "cpuBackend", `threads ${threads} is not a positive integer`);
  }
}

/** Memory for several threads, for which an engine may have no room: it sets the most pages aside. */
function trySharedMemory(limits: {
  readonly initial: number;
  readonly maximum: number;
}): WebAssemblyMemory | null {
  try {
    return new webAssembly.Memory({ ...limits, shared: true });
  } catch {
    return null; // a RangeError
  }
}

function tryGrow(memory: WebAssemblyMemory, pages: number): boolean {
  try {
    memory.grow(pages);
    return true;
  } catch {
    return false; // a RangeError: the engine or the system has no more
  }
}
