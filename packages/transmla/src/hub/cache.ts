import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { copyFile, mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";

import { attempt, lookUp } from "../checkpoint/disk.ts";
import type { HubSettings } from "./settings.ts";
import { isCommit } from "./spec.ts";

/**
 * One model in the cache of huggingface_hub, in its layout: `refs/<revision>` holds a commit, `blobs/<digest>` the
 * content, `snapshots/<commit>/<file>` links to it, `.no_exist/<commit>/<file>` says that a commit has no such file.
 * Everything appears by renaming, so that other processes never see half of it.
 */
export class HubCache {
  readonly #folder: string;
  readonly #locks: string;
  readonly #symlinks: boolean;

  /**
   * @param settings - Where the cache is, and whether it may hold links.
   * @param repo - `org/name`, checked.
   */
  constructor({ cache, symlinks }: Pick<HubSettings, "cache" | "symlinks">, repo: string) {
    const name = `models--${repo.replace("/", "--")}`;
    this.#folder = join(cache, name);
    this.#locks = join(cache, ".locks", name);
    this.#symlinks = symlinks;
  }

  /** The folder of all content. */
  get blobs(): string {
    return join(this.#folder, "blobs");
  }

  /**
   * The folder of a commit.
   *
   * @param commit - 40 hexadecimal digits.
   */
  snapshot(commit: string): string {
    return join(this.#folder, "snapshots", commit);
  }

  /**
   * The file that is locked while content is fetched. huggingface_hub locks `<digest>.lock` with `flock`, which Node does
   * not have, and leaves that file behind: it cannot tell us anything.
   *
   * @param digest - Of the content.
   */
  lock(digest: string): string {
    return join(this.#locks, `${digest}.transmla.lock`);
  }

  /** Makes the folders that downloads go to. */
  async prepare(): Promise<void> {
    for (const folder of [this.blobs, this.#locks]) {
      await attempt("downloadModel", folder, mkdir(folder, { recursive: true }));
    }
  }

  /**
   * The commit of a revision, as far as the cache knows.
   *
   * @param revision - A branch, a tag or a commit.
   */
  async resolve(revision: string): Promise<string | undefined> {
    if (isCommit(revision)) return revision;
    const path = this.#ref(revision);
    const found = await lookUp("downloadModel", path);
    if (!found?.isFile()) return undefined;
    const commit = (await attempt("downloadModel", path, readFile(path, "utf8"))).trim();
    return isCommit(commit) ? commit : undefined;
  }

  /**
   * Records the commit of a revision.
   *
   * @param revision - A branch or a tag; a commit needs no record.
   * @param commit - What it is.
   */
  async setCommit(revision: string, commit: string): Promise<void> {
    if (isCommit(revision) || (await this.resolve(revision)) === commit) return;
    const path = this.#ref(revision);
    await attempt(
      "downloadModel",
      path,
      replace(path, (to) => writeFile(to, commit)),
    );
  }

  /**
   * Records that a commit has no file of some names.
   *
   * @param commit - The commit.
   * @param names - Plain file names.
   */
  async setAbsent(commit: string, names: readonly string[]): Promise<void> {
    for (const name of names) {
      const path = this.#absent(commit, name);
      const write = mkdir(dirname(path), { recursive: true }).then(() => writeFile(path, ""));
      await attempt("downloadModel", path, write);
    }
  }

  /**
   * Whether it is recorded that a commit has no file of a name.
   *
   * @param commit - The commit.
   * @param name - A plain file name.
   */
  async isAbsent(commit: string, name: string): Promise<boolean> {
    return (await lookUp("downloadModel", this.#absent(commit, name))) !== null;
  }

  /**
   * Puts content into a snapshot: as a relative link, or where there may be or can be none, as the file itself. Content
   * that is only there for this snapshot is moved then, so that it does not take its space twice.
   *
   * @param blob - The content.
   * @param commit - The snapshot.
   * @param name - A plain file name.
   * @param movable - Whether no other snapshot can refer to the content.
   */
  async link(blob: string, commit: string, name: string, movable: boolean): Promise<void> {
    const path = join(this.snapshot(commit), name);
    const target = relative(dirname(path), blob);
    if (this.#symlinks) {
      try {
        await replace(path, (to) => symlink(target, to));
        return;
      } catch {
        // Windows without developer mode, and file systems without links.
      }
    }
    // A copy shares its blocks with the original where the file system can do that.
    const place = (to: string): Promise<void> =>
      movable ? rename(blob, to) : copyFile(blob, to, constants.COPYFILE_FICLONE);
    await attempt("downloadModel", path, replace(path, place));
  }

  #ref(revision: string): string {
    return join(this.#folder, "refs", ...revision.split("/"));
  }

  #absent(commit: string, name: string): string {
    return join(this.#folder, ".no_exist", commit, name);
  }
}

/**
 * Whether there is a file of a given size, through links.
 *
 * @param path - Where it should be.
 * @param bytes - The size that it should have.
 */
export async function holds(path: string, bytes: number): Promise<boolean> {
  const found = await lookUp("downloadModel", path);
  return found !== null && found.isFile() && found.size === bytes;
}

/** Makes something under another name and renames it to its own. */
async function replace(path: string, make: (path: string) => Promise<void>): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.${randomBytes(4).toString("hex")}.tmp`;
  try {
    await make(temporary);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
