import { builtin } from "../platform.ts";
import { serve, type WorkerData } from "./worker.ts";

/** A worker that was started. */
export interface StartedWorker {
  /** Ends it, whatever it does. */
  terminate(): void;
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
      readonly workerData: WorkerData;
    },
  ) => StartedWorker & {
    on(event: "error" | "exit", listener: (cause: unknown) => void): void;
    unref(): void;
  };
}

/** What browsers have of Web Workers. */
interface Platform {
  readonly crossOriginIsolated?: boolean;
  readonly navigator?: { readonly hardwareConcurrency?: number };
  readonly Worker?: new (url: string) => StartedWorker & {
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
    const worker = new threads.Worker(source, { eval: true, execArgv: [], workerData: data });
    worker.on("error", (error) => onEnd(String(error)));
    worker.on("exit", (code) => onEnd(`it exited with code ${String(code)}`));
    worker.unref();
    return worker;
  }
  const source = `onmessage = ({ data }) => (${program})(data);`;
  const blob = new platform.Blob!([source], { type: "text/javascript" });
  url ??= platform.URL!.createObjectURL(blob);
  const worker = new platform.Worker!(url);
  worker.addEventListener("error", ({ message }) => onEnd(message ?? "it could not be started"));
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- of windows, which this is not
  worker.postMessage(data);
  return worker;
}
