import { join } from "node:path";

import { holds, type HubCache } from "./cache.ts";
import { Interruption, refuse, request, type Answer, type Connection } from "./connection.ts";
import { openIncomplete, type IncompleteFile } from "./incomplete.ts";
import type { HubFile } from "./listing.ts";
import { acquireLock } from "./lock.ts";

/** Ranges of one file that come at once. */
const RANGES_AT_ONCE = 4;

/** Where files go, and who is told. */
export interface Transfer {
  readonly connection: Connection;
  readonly cache: HubCache;
  readonly commit: string;
  /** The size of a range. */
  readonly rangeBytes: number;
  /** Called with the bytes that came; less than zero when they turned out to be damaged. */
  readonly onBytes: (count: number) => void;
}

/**
 * Brings a file into the snapshot of its commit. Of several processes that want it, one downloads.
 *
 * @param transfer - Where from and where to.
 * @param file - Which file.
 */
export async function fetchFile(transfer: Transfer, file: HubFile): Promise<void> {
  const { connection, cache, commit, onBytes } = transfer;
  const pointer = join(cache.snapshot(commit), file.name);
  if (await holds(pointer, file.bytes)) return onBytes(file.bytes);
  const lock = await acquireLock(cache.lock(file.digest), connection.signal);
  try {
    if (await holds(pointer, file.bytes)) return onBytes(file.bytes);
    const blob = join(cache.blobs, file.digest);
    const known = await holds(blob, file.bytes);
    if (known) onBytes(file.bytes);
    else await fetchBlob(transfer, file, blob, lock.takenOver);
    await cache.link(blob, commit, file.name, !known);
  } finally {
    await lock.release();
  }
}

/**
 * Runs work on several items at once. The first failure stops the rest.
 *
 * @param items - What to work on.
 * @param limit - How many at once.
 * @param signal - Ends the work with its reason.
 * @param work - Is given a signal that a failure of the others aborts too.
 */
export async function forEachAtOnce<T>(
  items: readonly T[],
  limit: number,
  signal: AbortSignal | undefined,
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const stop = new AbortController();
  const both = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
  const failures: unknown[] = [];
  const queue = items.values();
  const run = async (): Promise<void> => {
    for (const item of queue) {
      if (both.aborted) return;
      try {
        await work(item, both);
      } catch (error) {
        failures.push(error);
        stop.abort(error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, run));
  if (failures.length > 0) throw failures[0];
  signal?.throwIfAborted();
}

/** Fetches content until its hash is right. */
async function fetchBlob(
  transfer: Transfer,
  file: HubFile,
  blob: string,
  inUse: boolean,
): Promise<void> {
  const { connection, cache, rangeBytes, onBytes } = transfer;
  for (;;) {
    const incomplete = await openIncomplete(cache.blobs, file, rangeBytes, inUse);
    try {
      onBytes(incomplete.present);
      await fetchRanges(transfer, file, incomplete);
      const digest = await incomplete.digest(connection.signal);
      if (digest === file.digest) return await incomplete.commit(blob);
      onBytes(-file.bytes);
      await incomplete.discard();
      // A machine that lost power may have kept the note of bytes that never reached its disk: once more from the start.
      if (incomplete.resumed) continue;
      const problem = `what the server sent has the ${file.hash} ${digest}, not ${file.digest}`;
      refuse(connection, { file: file.name }, `${problem} as the hub lists; it was not kept`);
    } finally {
      await incomplete.close();
    }
  }
}

/** Fetches what is missing: a first range alone, to see whether the server serves ranges, then several at once. */
async function fetchRanges(
  transfer: Transfer,
  file: HubFile,
  incomplete: IncompleteFile,
): Promise<void> {
  const { signal } = transfer.connection;
  const [first] = incomplete.missing();
  if (first === undefined) return;
  const fetchRange = async (index: number, connection: Connection): Promise<void> => {
    const resource = {
      path: `/${connection.spec.repo}/resolve/${transfer.commit}/${encodeURIComponent(file.name)}`,
      file: file.name,
      headers: (): Record<string, string> => {
        const [begin, end] = incomplete.gap(index);
        const whole = begin === 0 && end === file.bytes;
        return whole ? {} : { range: `bytes=${begin}-${end - 1}` };
      },
    };
    await request(connection, resource, async (answer) => {
      const { position, limit } = checkAnswer(connection, file, answer, incomplete.gap(index));
      // Several such answers at once would write the same ranges.
      if (answer.status !== 206 && index !== first) {
        throw new Interruption("the server stopped serving ranges");
      }
      let at = position;
      for await (const chunk of answer.chunks) {
        if (at + chunk.length > limit) refuseSize(connection, file, `more than ${limit}`);
        transfer.onBytes(await incomplete.take(at, chunk));
        at += chunk.length;
      }
      if (at < limit) throw new Interruption(`the answer ended at byte ${at} of ${limit}`);
    });
  };
  await fetchRange(first, transfer.connection);
  await forEachAtOnce(incomplete.missing(), RANGES_AT_ONCE, signal, (index, both) =>
    fetchRange(index, { ...transfer.connection, signal: both }),
  );
}

/** Which bytes an answer brings: those that were asked for, or from a server without ranges, the whole file. */
function checkAnswer(
  connection: Connection,
  file: HubFile,
  { status, headers }: Answer,
  [begin, end]: readonly [begin: number, end: number],
): { readonly position: number; readonly limit: number } {
  if (status !== 206) {
    const length = headers.get("content-length");
    const plain = !headers.has("content-encoding"); // else it is the length before decompression
    if (length !== null && plain && Number(length) !== file.bytes) {
      refuseSize(connection, file, length);
    }
    return { position: 0, limit: file.bytes };
  }
  const range = headers.get("content-range") ?? "";
  const [, from, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(range) ?? [];
  if (Number(from) !== begin) {
    const problem = `the server sends the range "${range.slice(0, 100)}"`;
    refuse(connection, { file: file.name }, `${problem} when asked for ${begin}-${end - 1}`);
  }
  if (total !== "*" && Number(total) !== file.bytes) refuseSize(connection, file, total!);
  return { position: begin, limit: end };
}

function refuseSize(connection: Connection, { name, bytes }: HubFile, sent: string): never {
  const problem = `the server sends ${sent} bytes where the hub lists ${bytes}`;
  refuse(connection, { file: name }, problem);
}
