// States of a worker, in the first word of its control block.

/** It has nothing to do. */
export const IDLE = 0;
/** The caller has written a job. */
export const POSTED = 1;
/** The worker runs it. */
export const RUNNING = 2;
/** A job threw, and the worker is gone. */
export const FAILED = 3;

/** Words of a control block: the state, whether the worker listens, where the job lies, its length, and an error. */
export const CONTROL = {
  state: 0,
  listens: 1,
  at: 2,
  length: 3,
  errorLength: 4,
  error: 5,
} as const;
/** What a worker does while it has no job: it has not started, it looks for one again and again, or it sleeps. */
export const LISTENS = { not: 0, awake: 1, asleep: 2 } as const;

/** Words of a control block with room for an error, a multiple of two cache lines. */
export const CONTROL_WORDS = 128;

/** What a worker is given when it starts. */
export interface WorkerData {
  /** The memory of the backend. */
  readonly memory: { readonly buffer: ArrayBufferLike };
  /** Its control block. */
  readonly control: Int32Array;
}

/**
 * All that a worker does: it runs jobs. A job is a list of calls, in numbers: a kernel, how many arguments, the arguments.
 * `-1 - kernel` with the place and length of a module introduces a kernel.
 *
 * The text of this function is what a worker is started from, so that no file has to be found by bundlers, content
 * delivery networks or type stripping. It uses nothing from outside of it and declares no functions.
 *
 * @param data - What it works on.
 */
export function serve(data: WorkerData): void {
  const { memory, control } = data;
  // How often it looks for a job before it sleeps: about 50 us, several times what lies between two operations.
  const patience = 10_000;
  const webAssembly = (globalThis as unknown as { readonly WebAssembly: ServedWebAssembly })
    .WebAssembly;
  const kernels: ((...arguments_: readonly number[]) => unknown)[] = [];
  let numbers = new Float64Array(memory.buffer);
  let looks = 0;
  Atomics.store(control, 1, 1);
  for (;;) {
    if (Atomics.load(control, 0) !== 1) {
      if (looks++ < patience) continue;
      Atomics.store(control, 1, 2);
      Atomics.wait(control, 0, 0);
      Atomics.store(control, 1, 1);
    }
    looks = 0;
    if (Atomics.compareExchange(control, 0, 1, 2) !== 1) continue; // the caller took it back
    try {
      if (numbers.buffer !== memory.buffer) numbers = new Float64Array(memory.buffer);
      let at = control[2]!;
      const end = at + control[3]!;
      while (at < end) {
        const kernel = numbers[at]!;
        const values = numbers.subarray(at + 2, at + 2 + numbers[at + 1]!);
        at += 2 + values.length;
        if (kernel >= 0) kernels[kernel]!(...values);
        else {
          const bytes = new Uint8Array(memory.buffer, values[0], values[1]).slice();
          const module = new webAssembly.Module(bytes);
          kernels[-1 - kernel] = new webAssembly.Instance(module, { env: { memory } }).exports.run;
        }
      }
      Atomics.store(control, 0, 0);
      Atomics.notify(control, 0);
    } catch (error) {
      const text = String(error).slice(0, 100);
      for (let i = 0; i < text.length; i++) control[5 + i] = text.charCodeAt(i);
      control[4] = text.length;
      Atomics.store(control, 0, 3);
      Atomics.notify(control, 0);
      return;
    }
  }
}

interface ServedWebAssembly {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
    imports: { readonly env: object },
  ) => { readonly exports: { readonly run: (...arguments_: readonly number[]) => unknown } };
}
