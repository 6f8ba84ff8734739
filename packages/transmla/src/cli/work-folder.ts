import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { diskFolder, writeTensorFile } from "../checkpoint/disk.ts";
import { openSafetensors } from "../checkpoint/safetensors.ts";
import type { HostTensor } from "../convert/host-tensor.ts";
import type { LayerStore, StoredLayer } from "../convert/latent/layer-store.ts";

/**
 * What a conversion has found so far, in a folder beside its output: a run that was killed goes on from there. Each file
 * appears whole or not at all. Residual streams are not kept: running the original over the layers that are there gives
 * the same ones, and takes less disk.
 */
export class WorkFolder implements LayerStore {
  readonly #path: string;
  #layers = 0;

  private constructor(path: string) {
    this.#path = path;
  }

  /** How many layers are there. */
  get layers(): number {
    return this.#layers;
  }

  /**
   * Opens the folder of a conversion, empty unless it was begun before.
   *
   * @param path - Where it is or will be.
   * @param about - All that its content follows from; another one makes it empty.
   */
  static async open(path: string, about: unknown): Promise<WorkFolder> {
    const folder = new WorkFolder(path);
    const hash = createHash("sha256").update(JSON.stringify(about)).digest("hex");
    if ((await folder.#readNote("about")) === hash) {
      const names = await readdir(path);
      folder.#layers = names.filter((name) => /^layer-\d+\.safetensors$/.test(name)).length;
      return folder;
    }
    await folder.remove();
    await mkdir(path);
    await folder.#writeNote("about", hash);
    return folder;
  }

  /**
   * What was found before, or is found now and kept.
   *
   * @param name - Of the note.
   * @param find - Finds it.
   */
  async note<T>(name: string, find: () => Promise<T>): Promise<T> {
    const kept = await this.#readNote(name);
    if (kept !== undefined) return kept as T;
    const found = await find();
    await this.#writeNote(name, found);
    return found;
  }

  async #readNote(name: string): Promise<unknown> {
    try {
      return JSON.parse(await readFile(join(this.#path, `${name}.json`), "utf8"));
    } catch {
      return undefined; // absent or cut off: it is made again
    }
  }

  async #writeNote(name: string, value: unknown): Promise<void> {
    const path = join(this.#path, `${name}.json`);
    await writeFile(`${path}.new`, JSON.stringify(value));
    await rename(`${path}.new`, path);
  }

  async read(layer: number): Promise<StoredLayer | undefined> {
    const name = `${layerName(layer)}.safetensors`;
    const folder = diskFolder(this.#path);
    if (!(await folder.exists(name))) return undefined;
    const facts = (await this.#readNote(layerName(layer))) as StoredLayer["facts"] | undefined;
    if (!facts) return undefined;
    const file = await openSafetensors(await folder.open(name));
    try {
      const tensors: Record<string, HostTensor> = {};
      for (const [tensor, { shape }] of file.tensors) {
        tensors[tensor] = { shape, data: await file.numbers(tensor) };
      }
      return { tensors, facts };
    } finally {
      await file.close();
    }
  }

  async write(layer: number, { tensors, facts }: StoredLayer): Promise<void> {
    await this.#writeNote(layerName(layer), facts);
    await writeTensorFile(
      join(this.#path, `${layerName(layer)}.safetensors`),
      new Map(
        Object.entries(tensors).map(([name, { shape, data }]) => [
          name,
          { dtype: "F64", shape, values: data },
        ]),
      ),
    );
    this.#layers++;
  }

  /** Removes the folder. */
  async remove(): Promise<void> {
    await rm(this.#path, { recursive: true, force: true });
  }
}

/**
 * Names, sizes and times of the files that hold the weights of a model: what a conversion follows from, without reading it.
 *
 * @param path - A folder, or a GGUF file.
 */
export async function weightFiles(
  path: string,
): Promise<readonly (readonly [name: string, size: number, time: number])[]> {
  const isFolder = (await stat(path)).isDirectory();
  const names = isFolder
    ? (await readdir(path)).filter((name) => name.endsWith(".safetensors"))
    : [""];
  return Promise.all(
    names.toSorted().map(async (name) => {
      const { size, mtimeMs } = await stat(join(path, name));
      return [name, size, mtimeMs] as const;
    }),
  );
}

const layerName = (layer: number): string => `layer-${String(layer).padStart(5, "0")}`;
