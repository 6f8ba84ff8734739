import { ArgumentError, fail, StateError } from "@transmla/core";

import { checkFileName } from "./folder.ts";
import { show } from "./json.ts";

/** A file that is written in pieces, at any position. */
export interface ByteSink {
  /**
   * Writes bytes. Those of one call do not overlap those of another, so calls need not wait for each other.
   *
   * @param position - Where the first byte goes.
   * @param bytes - What to write; not kept after the promise settles.
   */
  write(position: number, bytes: Uint8Array): Promise<void>;
  /** Ends the file. Writing afterwards is an error. */
  close(): Promise<void>;
}

/** A folder that appears complete or not at all. */
export interface OutputFolder {
  /**
   * Starts a file.
   *
   * @param name - A plain file name, new in this folder.
   */
  create(name: string): Promise<ByteSink>;
  /**
   * Writes a whole text file.
   *
   * @param name - A plain file name, new in this folder.
   * @param text - Its content, which is stored as UTF-8.
   */
  writeText(name: string, text: string): Promise<void>;
  /** Makes the folder appear. Every file must be closed. */
  commit(): Promise<void>;
  /** Removes everything that was written. Does nothing after `commit`, so that it can stand in a `finally`. */
  discard(): Promise<void>;
}

/** What a kind of storage has to do for {@link outputFolder}. */
export interface OutputStore {
  /**
   * Starts a file.
   *
   * @param name - A plain file name; never the same twice.
   */
  create(name: string): Promise<ByteSink>;
  /** Makes the files appear. */
  commit(): Promise<void>;
  /** Removes the files; they are all closed. */
  discard(): Promise<void>;
}

/**
 * Makes an output folder out of a kind of storage: names are checked, every file is started once, nothing is written out
 * of turn, and files still open are closed before they are removed.
 *
 * @param store - Where the files go.
 */
export function outputFolder(store: OutputStore): OutputFolder {
  const open = new Map<string, ByteSink>();
  const names = new Set<string>();
  let state: "open" | "committed" | "discarded" = "open";

  const checkOpen = (operation: string): void => {
    if (state !== "open") fail(StateError, operation, `the output folder is ${state}`);
  };
  const create = async (name: string): Promise<ByteSink> => {
    checkOpen("create");
    checkFileName("create", name);
    if (names.has(name)) fail(ArgumentError, "create", `${show(name)} was created before`);
    names.add(name);
    const sink = await store.create(name);
    if (state !== "open") {
      await sink.close(); // discarded meanwhile
      checkOpen("create");
    }
    open.set(name, sink);
    return {
      write: async (position, bytes) => {
        if (!open.has(name)) fail(StateError, "write", "used after close", name);
        await sink.write(position, bytes);
      },
      close: async () => {
        if (open.delete(name)) await sink.close();
      },
    };
  };
  return {
    create,
    writeText: async (name, text) => {
      const sink = await create(name);
      await sink.write(0, new TextEncoder().encode(text));
      await sink.close();
    },
    commit: async () => {
      checkOpen("commit");
      if (open.size > 0) fail(StateError, "commit", `still open: ${[...open.keys()].join(", ")}`);
      await store.commit();
      state = "committed";
    },
    discard: async () => {
      if (state !== "open") return;
      state = "discarded";
      // What cannot be closed cleanly is removed all the same.
      await Promise.allSettled([...open.values()].map(async (sink) => sink.close()));
      open.clear();
      await store.discard();
    },
  };
}

/** An output folder in memory, with what was written to it. */
export interface MemoryOutput extends OutputFolder {
  /** The files by name; empty until `commit`. */
  readonly files: ReadonlyMap<string, Blob>;
}

/**
 * An output folder in memory, for browsers and tests.
 *
 * @example
 * ```ts
 * import { memoryOutput } from "transmla";
 * const output = memoryOutput();
 * await output.writeText("config.json", "{}");
 * await output.commit();
 * console.log([...output.files.keys()]); // => ["config.json"]
 * ```
 */
export function memoryOutput(): MemoryOutput {
  const written = new Map<string, GrowingBytes>();
  const files = new Map<string, Blob>();
  const output = outputFolder({
    create: async (name) => {
      const bytes = new GrowingBytes();
      written.set(name, bytes);
      return {
        write: async (position, piece) => bytes.write(position, piece),
        close: async () => {},
      };
    },
    commit: async () => {
      for (const [name, bytes] of written) files.set(name, new Blob([bytes.view()]));
      written.clear();
    },
    discard: async () => written.clear(),
  });
  return { ...output, files };
}

/** A file in memory; what was never written is zero. */
class GrowingBytes {
  #bytes = new Uint8Array(1024);
  #size = 0;

  write(position: number, piece: Uint8Array): void {
    const end = position + piece.length;
    if (end > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(end, 2 * this.#bytes.length));
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    this.#bytes.set(piece, position);
    this.#size = Math.max(this.#size, end);
  }

  view(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.#size);
  }
}
