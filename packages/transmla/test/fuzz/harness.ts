// What must hold for every file, however damaged: it is read, or refused by an error of this library that names it,
// with work and memory in proportion to its size, and nothing else of the disk is looked at.
import { fc, test as prop } from "@fast-check/vitest";
import { TransmlaError } from "@transmla/core";
import { afterAll, expect } from "vitest";

import { FileError, type Folder } from "../../src/checkpoint/folder.ts";
import { countAllocations } from "./allocations.ts";

/** Inputs for each format. */
const runs = Number(process.env["FUZZ_RUNS"] ?? 200);

/** What errors call the folder of damaged files. */
const folderName = "fuzzed";

/** The files of a folder. */
export type Files = Readonly<Record<string, Uint8Array>>;

/** Files of which some are damaged, and what a report of a failure shows of them. */
interface Damaged {
  readonly files: Files;
  readonly [fc.toStringMethod]: () => string;
}

/** A quantized value takes 2 bits or more, and 64 as f64; texts become lists of merges, and JSON a tree. */
const BYTES_PER_FILE_BYTE = 128;

/** What small files may take too. */
const BYTES_FOR_ANY_FILE = 2 ** 24;

/** Calls for a whole model folder of one file; one call reads one tensor. */
const CALLS_FOR_ANY_FILE = 50;

/** The least bytes of a header that name a tensor. */
const BYTES_PER_TENSOR = 24;

/** A folder that keeps account of its use. */
class WatchedFolder implements Folder {
  readonly path: string = folderName;
  readonly names: Set<string> = new Set();
  readonly #files: Files;
  opened = 0;
  calls = 0;
  bytesRead = 0;

  constructor(files: Files) {
    this.#files = files;
  }

  async exists(name: string): Promise<boolean> {
    this.calls++;
    this.names.add(name);
    return Object.hasOwn(this.#files, name);
  }

  async open(name: string): ReturnType<Folder["open"]> {
    this.calls++;
    this.names.add(name);
    const path = `${folderName}/${name}`;
    if (!Object.hasOwn(this.#files, name)) throw new FileError(`open: no such file (${path})`);
    const bytes = this.#files[name]!;
    this.opened++;
    return {
      name: path,
      size: bytes.length,
      read: async (begin, end) => {
        this.calls++;
        this.bytesRead += end - begin;
        expect([begin, end, end - begin].every(Number.isSafeInteger)).toBe(true);
        expect(begin >= 0 && begin <= end && end <= bytes.length).toBe(true);
        return bytes.slice(begin, end);
      },
      close: async () => void this.opened--,
    };
  }
}

/** Whether a name could lead out of a folder on some system. */
function leavesFolder(name: string): boolean {
  return name === "" || name === "." || name === ".." || /[/\\:\0]/.test(name);
}

/**
 * Reads files that may be damaged and checks everything that must hold.
 *
 * @param files - The folder.
 * @param read - Reads it; it throws what it finds wrong.
 * @returns The error by which the files were refused, if they were.
 */
export async function checkReading(
  files: Files,
  read: (folder: Folder) => Promise<void>,
): Promise<TransmlaError | undefined> {
  const folder = new WatchedFolder(files);
  const size = Object.values(files).reduce((sum, { length }) => sum + length, 0);
  const limit = BYTES_PER_FILE_BYTE * size + BYTES_FOR_ANY_FILE;
  let thrown: unknown;
  const allocated = await countAllocations(limit, async () => {
    try {
      await read(folder);
    } catch (error) {
      thrown = error;
    }
  });
  expect(allocated).toBeLessThanOrEqual(limit);
  if (thrown !== undefined && !(thrown instanceof TransmlaError)) throw thrown;
  expect(folder.opened).toBe(0);
  expect(folder.bytesRead).toBeLessThanOrEqual(6 * size);
  expect(folder.calls).toBeLessThanOrEqual(CALLS_FOR_ANY_FILE + (6 * size) / BYTES_PER_TENSOR);
  expect([...folder.names].filter(leavesFolder)).toEqual([]);
  if (thrown === undefined) return undefined;
  const { message } = thrown;
  // A weight of the wrong shape is named with the folder: any shard may hold it.
  const named =
    message.startsWith(`${folderName}: `) ||
    [...folder.names].some((name) => message.includes(`${folderName}/${name}`));
  expect(named, `no file is named by: ${message}`).toBe(true);
  expect(message.length).toBeLessThan(2000);
  return thrown;
}

/**
 * Fuzzes the reader of one format. A failure prints seed and path, with which fast-check repeats it.
 *
 * @param format - What is damaged.
 * @param damaged - The folders, with one damaged file or more.
 * @param read - Reads a folder.
 * @param share - How many of the runs of the format this is.
 */
export function fuzz(
  format: string,
  damaged: fc.Arbitrary<Files>,
  read: (folder: Folder) => Promise<void>,
  share = 1,
): void {
  const numRuns = Math.ceil(runs * share);
  let refused = 0;
  let total = 0;
  // A report shows sizes only: seed and path repeat the case.
  const shown = damaged.map((files): Damaged => ({
    files,
    [fc.toStringMethod]: () =>
      Object.entries(files)
        .map(([name, { length }]) => `${name} of ${length} bytes`)
        .join(", "),
  }));
  prop.prop([shown], { numRuns })(
    format,
    async ({ files }) => {
      total++;
      if ((await checkReading(files, read)) !== undefined) refused++;
    },
    60_000 + 100 * numRuns,
  );
  afterAll(() => {
    if (process.env["FUZZ_RUNS"] === undefined) return;
    console.log(`${format}: ${total} damaged, ${total - refused} read, ${refused} refused`);
  });
}
