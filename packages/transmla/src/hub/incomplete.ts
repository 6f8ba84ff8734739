import { createHash, randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { copyFile, open, readdir, rename, rm, type FileHandle } from "node:fs/promises";
import { join } from "node:path";

import { fail } from "@transmla/core";

import { attempt, lookUp, readFully, writeFully } from "../checkpoint/disk.ts";
import { FileError } from "../checkpoint/folder.ts";
import { holds } from "./cache.ts";
import type { HubFile } from "./listing.ts";

/** How many bytes of a range come before it is noted how far it is. */
const NOTE_EVERY = 4 * 2 ** 20;

/** How many bytes are hashed at once. */
const HASH_BYTES = 2 ** 20;

/**
 * A file that comes in ranges, in any order. Behind its bytes it notes how many of each range are there, so that a later
 * process can go on: the size of a range, then a count for each, as f64. This note is cut off at the end.
 */
export class IncompleteFile {
  /** Whether some of it was there before. */
  readonly resumed: boolean;
  readonly #path: string;
  readonly #file: HubFile;
  readonly #handle: FileHandle;
  /** The size of a range, then how many bytes of each are there, from its beginning. */
  readonly #note: Float64Array;
  /** The note as it is in the file. */
  readonly #noted: Float64Array;
  #open = true;

  /**
   * @param path - Where it is.
   * @param file - What it will be.
   * @param handle - It, for reading and writing.
   * @param note - What is there of it.
   */
  constructor(path: string, file: HubFile, handle: FileHandle, note: Float64Array) {
    this.#path = path;
    this.#file = file;
    this.#handle = handle;
    this.#note = note;
    this.#noted = note.slice();
    this.resumed = this.present > 0;
  }

  /** How many bytes are there. */
  get present(): number {
    return this.#note.subarray(1).reduce((sum, count) => sum + count, 0);
  }

  /** Which ranges lack bytes. */
  missing(): number[] {
    const indices = Array.from({ length: this.#note.length - 1 }, (_, i) => i);
    return indices.filter((index) => {
      const [begin, end] = this.gap(index);
      return begin < end;
    });
  }

  /**
   * What a range lacks.
   *
   * @param index - Which range.
   * @returns Its first missing byte, and one past its last byte.
   */
  gap(index: number): readonly [begin: number, end: number] {
    const begin = index * this.#rangeBytes;
    const end = Math.min(begin + this.#rangeBytes, this.#file.bytes);
    return [begin + this.#note[index + 1]!, end];
  }

  /**
   * Takes bytes as they come; those that are there already are skipped.
   *
   * @param position - Where in the file they belong.
   * @param bytes - The bytes.
   * @returns How many were new.
   */
  async take(position: number, bytes: Uint8Array): Promise<number> {
    let added = 0;
    for (let done = 0; done < bytes.length;) {
      const at = position + done;
      const index = Math.floor(at / this.#rangeBytes);
      const [gap, end] = this.gap(index);
      const part = bytes.subarray(done, done + end - at);
      const fresh = part.subarray(gap - at);
      if (gap >= at && fresh.length > 0) {
        await attempt("write", this.#path, writeFully(this.#handle, fresh, gap));
        this.#note[index + 1]! += fresh.length;
        added += fresh.length;
        const behind = this.#note[index + 1]! - this.#noted[index + 1]!;
        if (behind >= NOTE_EVERY || gap + fresh.length === end) await this.#write();
      }
      done += part.length;
    }
    return added;
  }

  /**
   * Hashes the whole file from the disk.
   *
   * @param signal - Ends it with its reason.
   * @returns The hash in hexadecimal digits, of the kind that the hub lists.
   */
  async digest(signal: AbortSignal | undefined): Promise<string> {
    const { bytes, hash: kind } = this.#file;
    const hash = createHash(kind === "sha256" ? "sha256" : "sha1");
    if (kind === "git sha1") hash.update(`blob ${bytes}\0`);
    const buffer = new Uint8Array(Math.min(HASH_BYTES, bytes));
    for (let begin = 0; begin < bytes; begin += buffer.length) {
      signal?.throwIfAborted();
      const part = buffer.subarray(0, bytes - begin);
      await attempt("read", this.#path, readFully(this.#handle, part, begin));
      hash.update(part);
    }
    return hash.digest("hex");
  }

  /**
   * Puts the whole file in its place.
   *
   * @param blob - Where that is.
   */
  async commit(blob: string): Promise<void> {
    await attempt("write", this.#path, this.#handle.truncate(this.#file.bytes));
    await attempt("write", this.#path, this.#handle.sync());
    this.#open = false;
    await attempt("write", this.#path, this.#handle.close());
    try {
      await rename(this.#path, blob);
    } catch (error) {
      // Another process took this over and was faster.
      if (!(await holds(blob, this.#file.bytes))) {
        fail(FileError, "downloadModel", (error as Error).message, blob);
      }
    }
  }

  /** Throws the file away. */
  async discard(): Promise<void> {
    this.#note.fill(0, 1);
    await this.close();
  }

  /** Closes the file, unless that is done. What came of it is kept for the next attempt. */
  async close(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    const keep = this.present > 0;
    // This runs after a failure, perhaps of the disk: that failure is what the user must see.
    if (keep) await this.#write().catch(() => {});
    await this.#handle.close().catch(() => {});
    if (!keep) await rm(this.#path, { force: true }).catch(() => {});
  }

  async #write(): Promise<void> {
    this.#noted.set(this.#note);
    const bytes = new Uint8Array(this.#noted.buffer);
    await attempt("write", this.#path, writeFully(this.#handle, bytes, this.#file.bytes));
  }

  get #rangeBytes(): number {
    return this.#note[0]!;
  }
}

/**
 * Opens what an earlier attempt left of a file, or begins it.
 *
 * @param folder - Where blobs are.
 * @param file - The file.
 * @param rangeBytes - The size of its ranges, should it begin now.
 * @param inUse - Whether a process that fell silent may still write to what it left.
 */
export async function openIncomplete(
  folder: string,
  file: HubFile,
  rangeBytes: number,
  inUse: boolean,
): Promise<IncompleteFile> {
  const path = join(folder, `${file.digest}.${randomBytes(4).toString("hex")}.incomplete`);
  for (const name of await attempt("open", folder, readdir(folder))) {
    if (!name.startsWith(`${file.digest}.`) || !/\.[0-9a-f]{8}\.incomplete$/.test(name)) continue;
    const left = join(folder, name);
    const note = await readNote(left, file);
    if (note === undefined) continue; // of huggingface_hub, which may be writing it now
    if (inUse) await copyFile(left, path, constants.COPYFILE_FICLONE).catch(() => {});
    else await rename(left, path).catch(() => {});
    await rm(left, { force: true }).catch(() => {});
    const handle = await open(path, "r+").catch(() => undefined);
    if (handle) return new IncompleteFile(path, file, handle, note);
  }
  const handle = await attempt("create", path, open(path, "wx+"));
  const note = new Float64Array(1 + Math.ceil(file.bytes / rangeBytes));
  note[0] = rangeBytes;
  return new IncompleteFile(path, file, handle, note);
}

/** The note of a file, or `undefined` when it has none that fits. */
async function readNote(path: string, { bytes }: HubFile): Promise<Float64Array | undefined> {
  const size = (await lookUp("open", path))?.size ?? 0;
  const count = (size - bytes) / Float64Array.BYTES_PER_ELEMENT;
  if (!Number.isInteger(count) || count < 2) return undefined;
  const handle = await attempt("open", path, open(path, "r"));
  try {
    const note = new Float64Array(count);
    await attempt("read", path, readFully(handle, new Uint8Array(note.buffer), bytes));
    const [rangeBytes = 0, ...counts] = note;
    const fits = Number.isInteger(rangeBytes) && Math.ceil(bytes / rangeBytes) === counts.length;
    const valid = counts.every((of, i) => {
      return Number.isInteger(of) && 0 <= of && of <= Math.min(rangeBytes, bytes - i * rangeBytes);
    });
    return fits && valid ? note : undefined;
  } finally {
    await handle.close();
  }
}
