import { randomBytes } from "node:crypto";
import type { Stats } from "node:fs";
import {
  mkdir,
  open,
  readdir,
  realpath,
  rename,
  rm,
  rmdir,
  stat,
  type FileHandle,
} from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";

import { ArgumentError, fail } from "@transmla/core";

import { checkFileName, checkRange, FileError, type ByteSource, type Folder } from "./folder.ts";
import { outputFolder, type ByteSink, type OutputFolder } from "./output.ts";
import type { TensorValues } from "./tensors.ts";
import { createCheckpoint } from "./write.ts";

/** Node reads and writes at most 2^31 - 1 bytes in one call. */
const MAX_CALL_BYTES = 2 ** 30;

/** What the common codes of the system mean. */
const reasons: Readonly<Record<string, string>> = {
  EACCES: "permission denied",
  EFBIG: "the file is too large for the disk or a quota",
  EIO: "the disk failed",
  EMFILE: "too many open files",
  ENOENT: "no such file or folder",
  ENOSPC: "no space left on the disk",
  ENOTDIR: "a part of the path is a file",
  EPERM: "not permitted",
  EROFS: "the disk is read-only",
};

/**
 * Waits for a file operation and words its failure.
 *
 * @param operation - What errors name as the operation.
 * @param path - What it is about.
 * @param work - The operation, begun.
 * @throws FileError instead of the error of the system.
 */
export async function attempt<T>(operation: string, path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const { code = "", message } = error as NodeJS.ErrnoException;
    const known = reasons[code];
    return fail(FileError, operation, known === undefined ? message : `${known} (${code})`, path);
  }
}

/** Whether an error says that nothing is there. */
function isMissing(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ENOTDIR";
}

/**
 * What is at a path, or null when nothing is.
 *
 * @param operation - What errors name as the operation.
 * @param path - Where to look; links are followed.
 * @throws FileError when the system does not tell.
 */
export async function lookUp(operation: string, path: string): Promise<Stats | null> {
  const found = stat(path).catch((error: unknown) => {
    if (isMissing(error)) return null;
    throw error;
  });
  return attempt(operation, path, found);
}

/**
 * A folder on disk. Nothing is touched before a file is asked for.
 *
 * @param path - Where it is.
 */
export function diskFolder(path: string): Folder {
  /** Says whether a file is there; a folder that is not there itself is an error. */
  const exists = async (name: string): Promise<boolean> => {
    checkFileName("open", name);
    const found = await lookUp("open", join(path, name));
    if (found !== null) return found.isFile();
    const folder = await lookUp("open", path);
    if (folder === null) fail(FileError, "open", "no such folder", path);
    if (!folder.isDirectory()) fail(FileError, "open", "is a file, not a folder", path);
    return false;
  };
  return {
    path,
    exists,
    open: async (name) => {
      const full = join(path, name);
      // Asked first: opening a pipe would wait for its other end.
      if (!(await exists(name))) fail(FileError, "open", "no such file", full);
      return diskSource(full);
    },
  };
}

async function diskSource(path: string): Promise<ByteSource> {
  const handle = await attempt("open", path, open(path, "r"));
  const { size } = await attempt("open", path, handle.stat());
  return {
    name: path,
    size,
    read: async (begin, end) => {
      checkRange({ name: path, size }, begin, end);
      const bytes = allocate(end - begin, path);
      await attempt("read", path, readFully(handle, bytes, begin));
      return bytes;
    },
    close: async () => handle.close(),
  };
}

function allocate(count: number, path: string): Uint8Array {
  try {
    return new Uint8Array(count);
  } catch {
    fail(FileError, "read", `no memory for ${count} bytes`, path);
  }
}

/**
 * Fills a buffer from a file.
 *
 * @param handle - The file.
 * @param bytes - The buffer.
 * @param begin - Where in the file to begin.
 */
export async function readFully(
  handle: FileHandle,
  bytes: Uint8Array,
  begin: number,
): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const count = Math.min(MAX_CALL_BYTES, bytes.length - done);
    const { bytesRead } = await handle.read(bytes, done, count, begin + done);
    if (bytesRead === 0)
      throw new Error(`the file ended at byte ${begin + done} while it was read`);
    done += bytesRead;
  }
}

/**
 * Opens a file for writing at any position.
 *
 * @param path - Where it is or will be.
 * @param flags - `wx` refuses a file that exists, `w` empties it.
 */
export async function diskSink(path: string, flags: "wx" | "w" = "wx"): Promise<ByteSink> {
  const handle = await attempt("create", path, open(path, flags));
  return {
    write: async (position, bytes) => attempt("write", path, writeFully(handle, bytes, position)),
    close: async () => attempt("close", path, handle.close()),
  };
}

/**
 * Writes a whole buffer to a file.
 *
 * @param handle - The file.
 * @param bytes - The buffer.
 * @param position - Where in the file to begin.
 */
export async function writeFully(
  handle: FileHandle,
  bytes: Uint8Array,
  position: number,
): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const count = Math.min(MAX_CALL_BYTES, bytes.length - done);
    const { bytesWritten } = await handle.write(bytes, done, count, position + done);
    done += bytesWritten;
  }
}

/**
 * Starts a folder on disk that appears complete or not at all: files go to a sibling named `<path>.incomplete-...`, and
 * `commit` brings them to the disk and renames it. What a process that was killed has left there is removed.
 *
 * @param path - Where the folder will be; its parent exists, and it is itself absent or empty.
 * @throws ArgumentError when something is there already.
 * @throws FileError when the sibling cannot be made.
 */
export async function createOutputFolder(path: string): Promise<OutputFolder> {
  const target = await freeTarget(path);
  const temporary = await incomplete(target);
  await attempt("createOutputFolder", temporary, mkdir(temporary));
  const names: string[] = [];
  return outputFolder({
    create: async (name) => {
      names.push(name);
      return diskSink(join(temporary, name));
    },
    commit: async () => {
      for (const name of names) await flush(join(temporary, name));
      // Not every system renames onto an empty folder.
      await attempt("commit", path, rmdir(target).catch(ignoreMissing));
      await attempt("commit", path, rename(temporary, target));
    },
    discard: async () =>
      // A file that is being created meanwhile makes the first attempt fail.
      attempt("discard", temporary, rm(temporary, { recursive: true, force: true, maxRetries: 3 })),
  });
}

/**
 * Writes tensors to one safetensors file. It appears complete or not at all, and replaces a file of that name.
 *
 * @param path - Where the file will be.
 * @param tensors - Type, shape and values by name.
 * @throws ArgumentError when values do not fill their shape or do not fit in their type.
 * @throws FileError when the file cannot be written.
 */
export async function writeTensorFile(
  path: string,
  tensors: ReadonlyMap<string, TensorValues>,
): Promise<void> {
  const output = await outputFile(path);
  try {
    const plan = [...tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
    const writer = await createCheckpoint(output, plan, { maxShardBytes: Infinity });
    for (const [name, { values }] of tensors) await writer.write(name, values);
    await writer.close();
    await output.commit();
  } finally {
    await output.discard();
  }
}

/**
 * Starts a file on disk that appears complete or not at all, as an output of one file, whatever that is called.
 *
 * @param path - Where the file will be; nothing is there yet.
 * @throws ArgumentError when something is there already.
 */
export async function createOutputFile(path: string): Promise<OutputFolder> {
  const operation = "createOutputFile";
  if ((await lookUp(operation, path)) !== null) {
    fail(ArgumentError, operation, "the file exists; name another", path);
  }
  const parent = dirname(resolve(path));
  if ((await lookUp(operation, parent)) === null) {
    fail(FileError, operation, "the folder that it should go into does not exist", path);
  }
  return outputFile(path);
}

/** An output of one file; it goes to a name beside its own and replaces what has that. */
async function outputFile(path: string): Promise<OutputFolder> {
  const temporary = await incomplete(path);
  return outputFolder({
    create: async () => diskSink(temporary),
    commit: async () => {
      await flush(temporary);
      await attempt("commit", path, rename(temporary, path));
    },
    discard: async () => attempt("discard", temporary, rm(temporary, { force: true })),
  });
}

/** A name beside a path for what is not complete yet; what processes that are no more have left there is removed. */
async function incomplete(path: string): Promise<string> {
  const folder = dirname(path);
  const prefix = `${basename(path)}.incomplete-`;
  for (const name of await attempt("create", folder, readdir(folder))) {
    if (!name.startsWith(prefix)) continue;
    const [, owner] = /^(\d+)-[0-9a-f]{8}$/.exec(name.slice(prefix.length)) ?? [];
    if (owner === undefined || isRunning(Number(owner))) continue;
    const left = join(folder, name);
    await attempt("create", left, rm(left, { recursive: true, force: true }));
  }
  return join(folder, `${prefix}${process.pid}-${randomBytes(4).toString("hex")}`);
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0); // asks only
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

/** Where the folder will really be, when nothing is there that it would replace. */
async function freeTarget(path: string): Promise<string> {
  const operation = "createOutputFolder";
  const found = await lookUp(operation, path);
  if (found === null) {
    const parent = dirname(resolve(path));
    if ((await lookUp(operation, parent)) === null) {
      fail(FileError, operation, "the folder that it should go into does not exist", path);
    }
    return resolve(path);
  }
  if (!found.isDirectory()) fail(ArgumentError, operation, "is a file, not a folder", path);
  const entries = await attempt(operation, path, readdir(path));
  if (entries.length > 0) {
    fail(ArgumentError, operation, "the folder exists and is not empty; name another", path);
  }
  return attempt(operation, path, realpath(path));
}

function ignoreMissing(error: unknown): void {
  if (!isMissing(error)) throw error;
}

/** Waits until a file is on the disk: some systems report that it is full, or broken, only then. */
async function flush(path: string): Promise<void> {
  const handle = await attempt("commit", path, open(path, "r+"));
  try {
    await attempt("commit", path, handle.sync());
  } finally {
    await handle.close();
  }
}
