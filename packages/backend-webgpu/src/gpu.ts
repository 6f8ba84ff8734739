import type { DType, Operand } from "@transmla/core";

import { liveBlock, type DeviceMemory, type WebGpuBuffer } from "./memory.ts";
import type { Pipelines } from "./pipelines.ts";
import type { Recorder } from "./recorder.ts";
import type { Options, Shader } from "./shader.ts";

/** What the kernels of this backend receive. */
export type GpuOperand = Operand<WebGpuBuffer>;

/** A kernel before it is bound to a device. Returns `false` to decline. */
export type GpuKernel<Attributes> = (
  gpu: Gpu,
  out: GpuOperand,
  inputs: readonly GpuOperand[],
  attributes: Attributes,
) => void | false;

/** What kernels can rely on. */
export interface Capabilities {
  /** Whether invocations share memory: not worth it on a device that is imitated by a processor. */
  readonly cooperative: boolean;
  /** Whether sums over a subgroup are one instruction. */
  readonly subgroups: boolean;
}

/** A device as kernels see it. */
export class Gpu {
  readonly #recorder: Recorder;
  readonly #pipelines: Pipelines;
  readonly #memory: DeviceMemory;
  /** What kernels can rely on. */
  readonly capabilities: Capabilities;

  /**
   * @param recorder - Takes the work.
   * @param pipelines - Compiles shaders.
   * @param memory - Gives scratch.
   * @param capabilities - What kernels can rely on.
   */
  constructor(
    recorder: Recorder,
    pipelines: Pipelines,
    memory: DeviceMemory,
    capabilities: Capabilities,
  ) {
    this.#recorder = recorder;
    this.#pipelines = pipelines;
    this.#memory = memory;
    this.capabilities = capabilities;
  }

  /**
   * Records one dispatch.
   *
   * @param shader - What runs.
   * @param options - One of its combinations, in the order in which they are declared.
   * @param buffers - For each binding.
   * @param values - For each parameter.
   * @param workgroups - How many.
   */
  run<O extends object, B extends string, P extends string>(
    shader: Shader<O, B, P>,
    options: O,
    buffers: Readonly<Record<NoInfer<B>, { readonly buffer: WebGpuBuffer }>>,
    values: Readonly<Record<NoInfer<P>, number | readonly number[]>>,
    workgroups: number,
  ): void {
    const pipeline = this.#pipelines.get(shader, options as Options);
    const blocks = pipeline.bindings.map((name) =>
      liveBlock(shader.name, buffers[name as B].buffer),
    );
    this.#recorder.dispatch(pipeline, blocks, values, workgroups);
  }

  /**
   * Memory for the work that `body` records; it may be handed out again right after.
   *
   * @param bytes - How many.
   * @param body - Records work.
   */
  withScratch(bytes: number, body: (scratch: { readonly buffer: WebGpuBuffer }) => void): void {
    const buffer = this.#memory.allocate(bytes);
    try {
      body({ buffer });
    } finally {
      this.#memory.release(buffer);
    }
  }
}

/** The dtypes that hold an element in each place. */
export const anyDType: readonly DType[] = ["f32", "f16", "bf16", "i32", "u32"];
/** The dtypes that hold floats. */
export const floats: readonly DType[] = ["f32", "f16", "bf16"];
/** The dtypes of weights and caches. */
export const floatsAndBlocks: readonly DType[] = [...floats, "q8", "q4"];
