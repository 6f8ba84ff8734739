import type { Checks } from "./checks.ts";
import {
  bindingsOf,
  moduleText,
  placeParameters,
  type AnyShader,
  type Options,
  type ParameterPlace,
} from "./shader.ts";

const COMPUTE_STAGE = 0x4;

/** Bytes of one call's parameters: the largest alignment of dynamic offsets. */
export const SLOT = 256;

/** A compiled shader, or one that is being compiled. */
export interface Pipeline {
  /** The shader and its options, for messages. */
  readonly name: string;
  /** Where its parameters lie. */
  readonly parameters: readonly ParameterPlace[];
  /** The names of its buffers, in order. */
  readonly bindings: readonly string[];
  /** Of its buffers: `wr` for one that is written and one that is read. Pipelines with the same key share bind groups. */
  readonly layoutKey: string;
  /** The same as a layout. */
  readonly layout: GPUBindGroupLayout;
  /** The pipeline once it is there. */
  readonly compiled: GPUComputePipeline | null;
  /** The compiler's words where there is none to come. */
  readonly failure: string | null;
  /** Settles when its compilation has ended. */
  readonly ready: Promise<void>;
  /** Compiles it at once, where work cannot wait. */
  compileNow(): GPUComputePipeline;
}

/** A pipeline on its way. */
type Mutable = { -readonly [K in keyof Pipeline]: Pipeline[K] };

/** Compiles each combination of a shader and its options once, without blocking. */
export class Pipelines {
  readonly #device: GPUDevice;
  readonly #checks: Checks;
  readonly #pipelines = new Map<AnyShader, Map<string, Pipeline>>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  /** The layout of the parameters of every pipeline. */
  readonly uniformLayout: GPUBindGroupLayout;

  /**
   * @param device - Where they run.
   * @param checks - Learns of errors of the compiler.
   */
  constructor(device: GPUDevice, checks: Checks) {
    this.#device = device;
    this.#checks = checks;
    const buffer = { type: "uniform", hasDynamicOffset: true } as const;
    this.uniformLayout = device.createBindGroupLayout({
      entries: [{ binding: 0, visibility: COMPUTE_STAGE, buffer }],
    });
  }

  /**
   * A pipeline, whose compilation starts when it is first asked for.
   *
   * @param shader - The shader.
   * @param options - One of its combinations.
   */
  get(shader: AnyShader, options: Options): Pipeline {
    let ofShader = this.#pipelines.get(shader);
    if (!ofShader) this.#pipelines.set(shader, (ofShader = new Map()));
    const key = Object.values(options).join();
    let pipeline = ofShader.get(key);
    if (!pipeline) ofShader.set(key, (pipeline = this.#start(shader, options)));
    return pipeline;
  }

  #start(shader: AnyShader, options: Options): Pipeline {
    const name = `${shader.name}(${Object.values(options).join()})`;
    const bindings = Object.entries(bindingsOf(shader, options));
    const layoutKey = bindings.map(([, { access }]) => access[0]).join("");
    const layout = this.#layout(layoutKey);
    const code = moduleText(shader, options);
    // What is wrong with a shader is asked of the shader below.
    const module = this.#unchecked(() => this.#device.createShaderModule({ label: name, code }));
    const bindGroupLayouts = [layout, this.uniformLayout];
    const descriptor = {
      label: name,
      layout: this.#device.createPipelineLayout({ bindGroupLayouts }),
      compute: { module, entryPoint: "main" },
    };
    const pipeline: Mutable = {
      name,
      parameters: placeParameters(shader.params),
      bindings: bindings.map(([binding]) => binding),
      layoutKey,
      layout,
      compiled: null,
      failure: null,
      ready: Promise.resolve(),
      compileNow: () =>
        (pipeline.compiled ??= this.#checks.checked(name, () =>
          this.#device.createComputePipeline(descriptor),
        )),
    };
    pipeline.ready = this.#compile(pipeline, descriptor);
    return pipeline;
  }

  /** Never rejects: without a pipeline there is a failure, or the device was lost. */
  async #compile(pipeline: Mutable, descriptor: GPUComputePipelineDescriptor): Promise<void> {
    try {
      const compiled = await this.#device.createComputePipelineAsync(descriptor);
      pipeline.compiled ??= compiled;
    } catch (error) {
      const words = await errorsOf(descriptor.compute.module).catch(() => "");
      pipeline.failure = words === "" ? String(error) : words;
    }
  }

  #unchecked<T>(body: () => T): T {
    this.#device.pushErrorScope("validation");
    const result = body();
    this.#device.popErrorScope().catch(() => undefined);
    return result;
  }

  #layout(key: string): GPUBindGroupLayout {
    let layout = this.#layouts.get(key);
    if (!layout) {
      const entries = key.split("").map((access, binding) => {
        const type = access === "r" ? "read-only-storage" : "storage";
        return { binding, visibility: COMPUTE_STAGE, buffer: { type } } as const;
      });
      layout = this.#device.createBindGroupLayout({ entries });
      this.#layouts.set(key, layout);
    }
    return layout;
  }
}

/** The errors that the compiler finds, with their lines. */
async function errorsOf(module: GPUShaderModule): Promise<string> {
  const { messages } = await module.getCompilationInfo();
  return messages
    .filter(({ type }) => type === "error")
    .map(({ lineNum, message }) => `line ${lineNum}: ${message}`)
    .join("; ");
}
