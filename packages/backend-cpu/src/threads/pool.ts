import { BackendError, fail } from "@transmla/core";

import type { Block } from "../allocator.ts";
import { startWorker, type StartedWorker } from "./start.ts";
import { CONTROL, CONTROL_WORDS, FAILED, IDLE, LISTENS, POSTED, RUNNING } from "./worker.ts";

/** Where jobs lie: blocks of the memory that the workers share. */
export interface JobMemory {
  /** The memory. */
  readonly shared: { readonly buffer: ArrayBufferLike };
  /** Takes bytes of it. */
  reserve(bytes: number): Block;
  /** Gives them back. */
  release(block: Block): void;
}

/** A list of kernel calls: for each the kernel, how many arguments, and the arguments. */
export interface Job {
  /** The calls. */
  readonly numbers: number[];
  /** The kernels that are called. */
  readonly kernels: Set<number>;
}

/** How often the caller looks whether a worker is done before it sleeps. */
const PATIENCE = 10_000;

/** How long the caller sleeps before it makes sure that the worker still runs, in milliseconds. */
const LONG = 100;

/** Whether this thread may sleep: the main thread of a page may not. */
function canWait(): boolean {
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1, 0);
    return true;
  } catch {
    return false; // a TypeError
  }
}

/** Workers of one memory. They start with the first job. */
export class Pool {
  readonly #memory: JobMemory;
  readonly #moduleOf: (kernel: number) => Uint8Array;
  readonly #members: Member[] = [];
  readonly #canWait = canWait();
  #failure: string | null = null;

  /**
   * @param memory - What they work on.
   * @param moduleOf - The bytes of the module that holds a kernel.
   */
  constructor(memory: JobMemory, moduleOf: (kernel: number) => Uint8Array) {
    this.#memory = memory;
    this.#moduleOf = moduleOf;
  }

  /**
   * Whether a worker looks for work at this moment, so that it would start at once.
   *
   * @param index - Which worker.
   */
  isAwake(index: number): boolean {
    const control = this.#members[index]?.control;
    return control !== undefined && Atomics.load(control, CONTROL.listens) === LISTENS.awake;
  }

  /**
   * Gives a worker a job.
   *
   * @param index - Which worker. It is started where it has not been.
   * @param job - What it does.
   * @returns Whether the memory had room for the job.
   */
  post(index: number, job: Job): boolean {
    this.requireHealth();
    const member = (this.#members[index] ??= this.#start());
    const { control } = member;
    if (!this.#write(member, job)) return false;
    Atomics.store(control, CONTROL.state, POSTED);
    if (Atomics.load(control, CONTROL.listens) === LISTENS.asleep) {
      Atomics.notify(control, CONTROL.state);
    }
    return true;
  }

  /**
   * Waits until a worker is done with its job, or takes the job back where it has not begun: a worker that starts, that
   * finds no free core or that is gone is not waited for.
   *
   * @param index - Which worker.
   * @returns Whether the job was done, or failed: see {@link requireHealth}.
   */
  collect(index: number): boolean {
    const { worker, control, known, posted } = this.#members[index]!;
    const { state } = CONTROL;
    if (Atomics.compareExchange(control, state, POSTED, IDLE) === POSTED) return false;
    for (let looks = 0; Atomics.load(control, state) === RUNNING; looks++) {
      if (looks <= PATIENCE || !this.#canWait) continue;
      const gone =
        Atomics.wait(control, state, RUNNING, LONG) === "timed-out" && !worker!.isAlive();
      // It may have done the job before it ended.
      if (gone && Atomics.compareExchange(control, state, RUNNING, IDLE) === RUNNING) {
        this.#failure ??= "it ended during a job";
      }
    }
    if (Atomics.load(control, state) === FAILED) {
      const text = control.subarray(CONTROL.error, CONTROL.error + control[CONTROL.errorLength]!);
      this.#failure ??= String.fromCharCode(...text);
    }
    for (const kernel of posted) known.add(kernel);
    return true;
  }

  /** Throws a `BackendError` when a worker has failed. */
  requireHealth(): void {
    if (this.#failure === null) return;
    const problem = `a worker failed: ${this.#failure}`;
    fail(BackendError, "threads", `${problem}; results may be lost: make a new backend`);
  }

  /** Ends the workers. */
  dispose(): void {
    for (const { worker } of this.#members) worker?.terminate();
    this.#members.length = 0;
  }

  #start(): Member {
    const words = new SharedArrayBuffer(4 * CONTROL_WORDS);
    const control = new Int32Array(words);
    const member = { control, known: new Set<number>(), posted: [], block: null };
    try {
      const worker = startWorker({ memory: this.#memory.shared, control }, (reason) => {
        // One that never listened could not be started, where a page forbids it for instance: its jobs are taken back.
        if (control[CONTROL.listens] !== LISTENS.not) this.#failure ??= reason;
      });
      return { ...member, worker };
    } catch {
      return { ...member, worker: null };
    }
  }

  /** Puts a job into the memory: modules of kernels that are new to the worker, calls, and the bytes of the modules. */
  #write(member: Member, { numbers, kernels }: Job): boolean {
    const { control, known } = member;
    const added = [...kernels].filter((kernel) => !known.has(kernel));
    const modules = added.map((kernel) => this.#moduleOf(kernel));
    const length = 4 * added.length + numbers.length;
    const bytes = 8 * length + modules.reduce((sum, module) => sum + module.byteLength, 0);
    const room = this.#room(member, bytes);
    if (!room) return false;
    const { offset } = room;
    const { buffer } = this.#memory.shared;
    let at = offset + 8 * length;
    const introductions = added.flatMap((kernel, i) => {
      const module = modules[i]!;
      new Uint8Array(buffer, at, module.byteLength).set(module);
      at += module.byteLength;
      return [-1 - kernel, 2, at - module.byteLength, module.byteLength];
    });
    const job = new Float64Array(buffer, offset, length);
    job.set(introductions);
    job.set(numbers, introductions.length);
    control[CONTROL.at] = offset / 8;
    control[CONTROL.length] = length;
    member.posted = added;
    return true;
  }

  #room(member: Member, bytes: number): Block | null {
    if (member.block && member.block.size >= bytes) return member.block;
    if (member.block) this.#memory.release(member.block);
    member.block = null;
    try {
      member.block = this.#memory.reserve(Math.max(2 * bytes, 4096));
    } catch (error) {
      if (!(error instanceof BackendError)) throw error;
    }
    return member.block;
  }
}

/** A worker, and what the caller knows of it. */
interface Member {
  /** `null` where it could not be started. */
  readonly worker: StartedWorker | null;
  readonly control: Int32Array;
  /** The kernels that it has. */
  readonly known: Set<number>;
  /** The kernels that come with its current job. */
  posted: readonly number[];
  /** Where its jobs lie. */
  block: Block | null;
}
