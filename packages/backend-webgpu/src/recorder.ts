import { BackendError, fail } from "@transmla/core";

import type { Checks } from "./checks.ts";
import type { Block } from "./memory.ts";
import { SLOT, type Pipeline } from "./pipelines.ts";

/** Dispatches that are recorded before they are submitted without being asked for. */
const MOST_PENDING = 1024;

/** The most workgroups along one dimension, by the specification. */
const MOST_WORKGROUPS = 65_535;

/** `GPUMapMode.READ` and `GPUBufferUsage.UNIFORM | COPY_DST`, which Node has not. */
const MAP_READ = 0x1;
const UNIFORM_COPY_DST = 0x48;

/** A dispatch. Its parameters lie in the uniform slot of its position among the dispatches. */
interface Dispatch {
  readonly pipeline: Pipeline;
  readonly group: GPUBindGroup;
  readonly workgroups: number;
}

/** A copy to a buffer that the host reads. */
interface CopyOut {
  readonly from: GPUBuffer;
  readonly offset: number;
  readonly to: GPUBuffer;
  readonly length: number;
}

/** What a backend has done on its device. */
export interface RecorderCount {
  /** Command buffers given to the device. */
  readonly submits: number;
  /** Kernels run. */
  readonly dispatches: number;
  /** Bytes copied to the host. */
  readonly bytesRead: number;
  /** Bytes copied from the host, parameters of kernels not counted. */
  readonly bytesWritten: number;
  /** Bind groups that are kept: one for each combination of buffers that kernels were given. */
  readonly bindGroups: number;
}

/** The values of a shader's parameters. */
export type ParameterValues = Readonly<Record<string, number | readonly number[]>>;

/**
 * Collects dispatches and submits them as one compute pass: at a read, when a buffer that they use is written by the
 * host, or when many are pending. Until then no pipeline has to be compiled: a read waits for them, the rest of the
 * program does not.
 */
export class Recorder {
  readonly #device: GPUDevice;
  readonly #checks: Checks;
  readonly #uniforms: GPUBuffer;
  readonly #uniformGroup: GPUBindGroup;
  readonly #words = new Uint32Array((MOST_PENDING * SLOT) / 4);
  readonly #floats = new Float32Array(this.#words.buffer);
  readonly #groups = new Map<string, GPUBindGroup>();
  readonly #keysOf = new Map<Block, string[]>();
  #commands: (Dispatch | CopyOut)[] = [];
  #dispatched = 0;
  #doomed: Block[] = [];
  #batch = 0;
  #count = { submits: 0, dispatches: 0, bytesRead: 0, bytesWritten: 0 };

  /**
   * @param device - Where the work runs.
   * @param checks - Learns of its errors.
   * @param uniformLayout - The layout of the parameters.
   */
  constructor(device: GPUDevice, checks: Checks, uniformLayout: GPUBindGroupLayout) {
    this.#device = device;
    this.#checks = checks;
    this.#uniforms = device.createBuffer({ size: MOST_PENDING * SLOT, usage: UNIFORM_COPY_DST });
    this.#uniformGroup = device.createBindGroup({
      layout: uniformLayout,
      entries: [{ binding: 0, resource: { buffer: this.#uniforms, size: SLOT } }],
    });
  }

  /** What was done so far. */
  get count(): RecorderCount {
    return { ...this.#count, bindGroups: this.#groups.size };
  }

  /**
   * Records a dispatch.
   *
   * @param pipeline - What runs.
   * @param blocks - Its buffers, in order.
   * @param values - Its parameters.
   * @param workgroups - How many, in one dimension.
   */
  dispatch(
    pipeline: Pipeline,
    blocks: readonly Block[],
    values: ParameterValues,
    workgroups: number,
  ): void {
    this.#checks.requireOpen(pipeline.name);
    if (pipeline.failure !== null) fail(BackendError, pipeline.name, pipeline.failure);
    if (workgroups === 0) return;
    if (this.#dispatched === MOST_PENDING) this.flush();
    this.#writeParameters(pipeline, values, workgroups);
    const group = this.#bindGroup(pipeline, blocks);
    for (const block of blocks) block.batch = this.#batch;
    this.#commands.push({ pipeline, group, workgroups });
    this.#dispatched++;
  }

  /**
   * Copies bytes to a buffer, after all work recorded before.
   *
   * @param block - Where to.
   * @param data - What; a multiple of 4 bytes.
   */
  write(block: Block, data: Uint8Array): void {
    this.#checks.requireOpen("write");
    // The queue writes before it runs what is submitted later.
    if (block.batch === this.#batch) this.flush();
    this.#checks.checked("write", () => {
      this.#device.queue.writeBuffer(block.gpu, 0, data);
    });
    this.#count.bytesWritten += data.byteLength;
  }

  /**
   * Copies bytes of a block to a staging buffer after all work recorded before, and waits until they can be read there.
   *
   * @param block - Where from.
   * @param staging - Where to.
   * @param offset - The first byte, a multiple of 4.
   * @param length - How many, a multiple of 4.
   */
  async read(
    block: Block,
    staging: GPUBuffer,
    offset: number,
    length: number,
  ): Promise<ArrayBuffer> {
    this.#checks.requireOpen("read");
    this.#commands.push({ from: block.gpu, offset, to: staging, length });
    block.batch = this.#batch;
    const batch = this.#batch;
    const waiting = this.#uncompiled();
    if (waiting.length > 0) await this.#checks.unlessEnded(Promise.all(waiting));
    if (this.#batch === batch) this.flush(); // a write in the meantime may have done it
    const mapped = staging.mapAsync(MAP_READ, 0, length).catch((error: unknown) => {
      this.#checks.report("read", String(error));
    });
    await this.#checks.settle(mapped);
    const bytes = staging.getMappedRange(0, length).slice(0);
    staging.unmap();
    this.#count.bytesRead += length;
    return bytes;
  }

  /** Submits what was recorded. */
  flush(): void {
    if (this.#commands.length > 0 && !this.#checks.ended) {
      this.#device.queue.writeBuffer(
        this.#uniforms,
        0,
        this.#words,
        0,
        (this.#dispatched * SLOT) / 4,
      );
      this.#checks.checked("submit", () => {
        this.#device.queue.submit([this.#encode()]);
      });
      this.#count.submits++;
      this.#count.dispatches += this.#dispatched;
    }
    this.#commands = [];
    this.#dispatched = 0;
    this.#batch++;
    for (const block of this.#doomed) this.#destroy(block);
    this.#doomed = [];
  }

  /**
   * Destroys a block once no recorded work uses it.
   *
   * @param block - A block that is no longer handed out.
   */
  destroyLater(block: Block): void {
    if (block.batch === this.#batch) this.#doomed.push(block);
    else this.#destroy(block);
  }

  /** Forgets the work that was recorded. */
  dispose(): void {
    this.flush();
    this.#uniforms.destroy();
    this.#groups.clear();
    this.#keysOf.clear();
  }

  #uncompiled(): Promise<void>[] {
    const waiting = new Set<Promise<void>>();
    for (const command of this.#commands) {
      if ("pipeline" in command && !command.pipeline.compiled) waiting.add(command.pipeline.ready);
    }
    return [...waiting];
  }

  #encode(): GPUCommandBuffer {
    const encoder = this.#device.createCommandEncoder();
    let pass: GPUComputePassEncoder | null = null;
    let slot = 0;
    for (const command of this.#commands) {
      if ("pipeline" in command) {
        const { pipeline, group, workgroups } = command;
        if (pipeline.failure !== null) {
          this.#checks.report(pipeline.name, pipeline.failure);
          slot++;
          continue;
        }
        pass ??= encoder.beginComputePass();
        pass.setPipeline(pipeline.compiled ?? pipeline.compileNow());
        pass.setBindGroup(0, group);
        pass.setBindGroup(1, this.#uniformGroup, [slot++ * SLOT]);
        const rows = Math.ceil(workgroups / MOST_WORKGROUPS);
        pass.dispatchWorkgroups(Math.ceil(workgroups / rows), rows);
      } else {
        pass?.end();
        pass = null;
        encoder.copyBufferToBuffer(command.from, command.offset, command.to, 0, command.length);
      }
    }
    pass?.end();
    return encoder.finish();
  }

  #writeParameters({ parameters }: Pipeline, values: ParameterValues, workgroups: number): void {
    const base = (this.#dispatched * SLOT) / 4;
    this.#words[base] = workgroups;
    for (const { name, type, at } of parameters) {
      const value = values[name]!;
      if (type === "vec4u") this.#words.set(value as readonly number[], base + at);
      else if (type === "f32") this.#floats[base + at] = value as number;
      else this.#words[base + at] = value as number; // wraps negative numbers as i32 does
    }
  }

  #bindGroup(pipeline: Pipeline, blocks: readonly Block[]): GPUBindGroup {
    let key = pipeline.layoutKey;
    for (const block of blocks) key += `,${block.id}`;
    const cached = this.#groups.get(key);
    if (cached) return cached;
    const group = this.#checks.checked(pipeline.name, () =>
      this.#device.createBindGroup({
        label: pipeline.name,
        layout: pipeline.layout,
        entries: blocks.map((block, binding) => ({ binding, resource: { buffer: block.gpu } })),
      }),
    );
    this.#groups.set(key, group);
    for (const block of blocks) {
      const keys = this.#keysOf.get(block);
      if (keys) keys.push(key);
      else this.#keysOf.set(block, [key]);
    }
    return group;
  }

  #destroy(block: Block): void {
    for (const key of this.#keysOf.get(block) ?? []) this.#groups.delete(key);
    this.#keysOf.delete(block);
    block.gpu.destroy();
  }
}
