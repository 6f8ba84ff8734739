import { randomBytes } from "node:crypto";
import { readFile, readlink, rm, stat, utimes, writeFile } from "node:fs/promises";
import { hostname } from "node:os";

import { attempt } from "../checkpoint/disk.ts";
import { isObject } from "../checkpoint/json.ts";
import { pause } from "./connection.ts";

/** A lock that is held. */
export interface Lock {
  /** Whether it was taken from a holder that fell silent but may still be alive. */
  readonly takenOver: boolean;
  /** Gives it back. */
  release(): Promise<void>;
}

const POLL_MS = 100;

/** A holder touches its lock this many times in the span after which it would count as dead. */
const BEATS = 5;

/** How long a lock stays untouched before it is taken over. */
const SILENCE_MS = 20_000;

/** The content of a lock file and the time of its last touch. */
interface Seen {
  readonly text: string;
  readonly touched: number;
}

/**
 * Waits for a lock between processes: a file that its holder creates and touches every few seconds. The lock of a process
 * that died is taken over, at once when it ran on this machine.
 *
 * Locks save double work, nothing else: when one is taken over by two at the same moment, both download, and the files
 * that they put in place are equal.
 *
 * @param path - The file; its folder exists.
 * @param signal - Ends the wait with its reason.
 * @param silence - How long a lock stays untouched before it is taken over, in milliseconds.
 */
export async function acquireLock(
  path: string,
  signal: AbortSignal | undefined,
  silence: number = SILENCE_MS,
): Promise<Lock> {
  const id = randomBytes(8).toString("hex");
  const content = JSON.stringify({ id, pid: process.pid, machine: await machine() });
  let seen: Seen | undefined;
  let since = 0;
  let takenOver = false;
  for (;;) {
    signal?.throwIfAborted();
    if (await attempt("lock", path, create(path, content))) break;
    const now = await look(path);
    // The clocks of two machines differ: what counts is how long this process saw no touch.
    if (now?.text !== seen?.text || now?.touched !== seen?.touched) since = performance.now();
    seen = now;
    const silent = now !== undefined && performance.now() - since >= silence;
    if (now !== undefined && (silent || (await isDead(now.text)))) {
      takenOver = silent;
      await attempt("lock", path, rm(path, { force: true }));
    } else {
      await pause(POLL_MS, signal);
    }
  }
  const touch = (): void => {
    const date = new Date();
    utimes(path, date, date).catch(() => {}); // taken over: noticed when it is released
  };
  const timer = setInterval(touch, silence / BEATS).unref();
  return {
    takenOver,
    release: async () => {
      clearInterval(timer);
      if ((await look(path))?.text === content) {
        await attempt("lock", path, rm(path, { force: true }));
      }
    },
  };
}

/** Creates a file, unless there is one. */
async function create(path: string, content: string): Promise<boolean> {
  try {
    await writeFile(path, content, { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

async function look(path: string): Promise<Seen | undefined> {
  try {
    return { text: await readFile(path, "utf8"), touched: (await stat(path)).mtimeMs };
  } catch {
    return undefined; // released meanwhile, or not ours to read
  }
}

/** Whether a lock names a process of this machine that is no more. */
async function isDead(text: string): Promise<boolean> {
  try {
    const holder: unknown = JSON.parse(text);
    if (!isObject(holder) || holder["machine"] !== (await machine())) return false;
    const { pid } = holder;
    if (typeof pid !== "number" || !Number.isInteger(pid) || pid < 1) return false;
    process.kill(pid, 0); // asks only
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}

/** Where a process id means the same process: the host, and in a container the container. */
async function machine(): Promise<string> {
  const namespace = await readlink("/proc/self/ns/pid").catch(() => "");
  return `${hostname()} ${namespace}`.trim();
}
