import { builtin } from "../platform.ts";
import { serve, type WorkerData } from "./worker.ts";

/** A worker that was started. */
export interface StartedWorker {
  /** Ends it, whatever it does. */
  terminate(): void;
  /**
   * Whether it still runs, known without waiting for the event loop. Outside Node it always seems to: what ends a worker of a
   * page ends the page.
   */
  isAlive(): boolean;
}

/** Threads beyond this gain little: products of vectors wait for the memory, and each thread takes its own panels. */
const MOST_THREADS = 8;

/** The part of `node:worker_threads` that is used here. */
interface WorkerThreads {
  readonly Worker: new (
    source: string,
    options: {
      readonly eval: true;
      readonly execArgv: readonly string[];
      readonly workerData: WorkerData & { readonly port: object };
      readonly transferList: readonly object[];
    },
  ) => {
    terminate(): void;
    on(event: "error" | "exit", listener: (cause: unknown) => void): void;
    unref(): void;
  };
  readonly MessageChannel: new () => { readonly port1: object; readonly port2: object };
  receiveMessageOnPort(port: object): unknown;
}

/** What browsers have of Web Workers. */
interface Platform {
  readonly crossOriginIsolated?: boolean;
  readonly navigator?: { readonly hardwareConcurrency?: number };
  readonly structuredClone: <T>(value: T, options: { readonly transfer: readonly T[] }) => T;
  readonly Worker?: new (url: string) => {
    terminate(): void;
    postMessage(message: WorkerData): void;
    addEventListener(type: "error", listener: (event: { readonly message?: string }) => void): void;
  };
  readonly Blob?: new (parts: readonly string[], options: { readonly type: string }) => object;
  readonly URL?: { createObjectURL(blob: object): string };
}

const platform = globalThis as unknown as Platform;

const workerThreads = (): WorkerThreads | undefined => {
  return builtin("node:worker_threads") as WorkerThreads | undefined;
};

/** Whether memory can be shared with workers: in Node, and in pages that are isolated from other origins. */
export function canShare(): boolean {
  if (typeof SharedArrayBuffer === "undefined") return false;
  return Boolean(workerThreads() ?? (platform.crossOriginIsolated && platform.Worker));
}

/** As many threads as the machine runs at once, but no more than eight; one where memory cannot be shared. */
export function defaultThreads(): number {
  return canShare() ? Math.min(hardwareThreads(), MOST_THREADS) : 1;
}

function hardwareThreads(): number {
  const os = builtin("node:os") as { availableParallelism(): number } | undefined;
  return os?.availableParallelism() ?? platform.navigator?.hardwareConcurrency ?? 1;
}

/** Where browsers find what workers run; made once. */
let url: string | undefined;

/**
 * Starts a worker that serves jobs. It never keeps a process alive.
 *
 * @param data - What it is given.
 * @param onEnd - Called when it ends by itself, with the reason.
 */
export function startWorker(data: WorkerData, onEnd: (reason: string) => void): StartedWorker {
  const threads = workerThreads();
  const program = serve.toString();
  if (threads) {
    const source = `(${program})(require("node:worker_threads").workerData)`;
    const { port1, port2 } = new threads.MessageChannel();
    const worker = new threads.Worker(source, {
      eval: true,
      execArgv: [],
      workerData: { ...data, port: port2 },
      transferList: [port2],
    });
    worker.on("error", (error) => onEnd(String(error)));
    worker.on("exit", (code) => onEnd(`it exited with code ${String(code)}`));
    worker.unref();
    const isOpen = openness(threads, port1);
    // A port that seems closed from the start says nothing: other engines may not move ports like this.
    const tells = isOpen();
    return { terminate: () => worker.terminate(), isAlive: () => !tells || isOpen() };
  }
  const source = `onmessage = ({ data }) => (${program})(data);`;
  const blob = new platform.Blob!([source], { type: "text/javascript" });
  url ??= platform.URL!.createObjectURL(blob);
  const worker = new platform.Worker!(url);
  worker.addEventListener("error", ({ message }) => onEnd(message ?? "it could not be started"));
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- of windows, which this is not
  worker.postMessage(data);
  return { terminate: () => worker.terminate(), isAlive: () => true };
}

/**
 * Tells whether a port is open: it closes when the thread that holds the other end is gone. Exits of workers are events, which
 * a thread that waits for a worker does not see; but a closed port cannot be transferred, not even to where it is.
 */
function openness(threads: WorkerThreads, port: object): () => boolean {
  let open = port;
  return () => {
    threads.receiveMessageOnPort(open); // takes note of the end
    try {
      open = platform.structuredClone(open, { transfer: [open] });
      return true;
    } catch {
      return false; // a DataCloneError
    }
  };
}
