import { ArgumentError, fail, StateError } from "@transmla/core";

import { bytesPerStored, encodeElements } from "./elements.ts";
import { checkPlanned, layOutFile, type StoredTensor } from "./header.ts";
import { show } from "./json.ts";
import type { ByteSink, OutputFolder } from "./output.ts";
import { RoundingError } from "./rounding.ts";
import { INDEX_FILE, MAX_SHARDS, SINGLE_FILE } from "./shards.ts";
import { byteSize, CHUNK_ELEMENTS, elementCount, type TensorInfo } from "./tensors.ts";

/** Writes the tensors of a planned checkpoint, in any order. */
export interface CheckpointWriter {
  /**
   * Writes a tensor, each value rounded once to the planned type, to nearest even.
   *
   * @param name - A planned tensor that was not written before.
   * @param values - Its values in row-major order.
   * @throws ArgumentError when the tensor is not planned, the number of values is another, or one does not fit: finite
   *   but beyond the type, or no integer of it.
   */
  write(name: string, values: ArrayLike<number>): Promise<void>;
  /**
   * Writes a tensor that comes in pieces as {@link write} does, so that memory need not hold it.
   *
   * @param name - A planned tensor that was not written before.
   * @param pieces - Its values in row-major order.
   * @returns What rounding costs: ‖rounded - exact‖ / ‖exact‖.
   */
  writePieces(name: string, pieces: AsyncIterable<Float64Array>): Promise<number>;
  /**
   * Writes a tensor as it is stored.
   *
   * @param name - A planned tensor that was not written before.
   * @param bytes - Little-endian elements of the planned type in row-major order.
   */
  writeBytes(name: string, bytes: Uint8Array): Promise<void>;
  /**
   * Ends the checkpoint: writes the index where there are several files. The output folder is not committed, so that
   * other files can join it.
   *
   * @throws StateError when planned tensors were not written.
   */
  close(): Promise<void>;
}

/** How a checkpoint is laid out. */
export interface CheckpointOptions {
  /** Bytes of tensors in a file, 5e9 unless said otherwise; a larger tensor gets a file of its own. */
  readonly maxShardBytes?: number;
  /** What `__metadata__` of every file says; `{ format: "pt" }` unless said otherwise, which Transformers expects. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** A file and how much of it is still to come. */
interface PlannedFile {
  readonly name: string;
  readonly head: Uint8Array;
  missing: number;
  sink: Promise<ByteSink> | undefined;
}

/** Where a tensor goes. */
interface Place extends StoredTensor {
  readonly file: PlannedFile;
}

/**
 * Starts a checkpoint. All tensors are laid out before any value is known, so that values stream to their places and
 * memory holds one tensor. The result is `model.safetensors`, or `model-00001-of-00002.safetensors` and so on with
 * `model.safetensors.index.json`. A file is created with its first tensor and closed with its last.
 *
 * @param output - Where the files go; its owner commits or discards it.
 * @param plan - What will be written. Files are filled in this order.
 * @param options - How to lay it out.
 * @throws ArgumentError when the plan is empty, names a tensor twice, or cannot be stored.
 *
 * @example
 * ```ts
 * import { blobFolder, createCheckpoint, memoryOutput, openCheckpoint } from "transmla";
 * const output = memoryOutput();
 * const writer = await createCheckpoint(output, [{ name: "a", dtype: "BF16", shape: [2] }]);
 * await writer.write("a", [1, 0.1]);
 * await writer.close();
 * await output.commit();
 * const source = await openCheckpoint(blobFolder(output.files));
 * console.log(Array.from(await source.numbers("a"))); // => [1, 0.10009765625]
 * ```
 */
export async function createCheckpoint(
  output: OutputFolder,
  plan: readonly TensorInfo[],
  options: CheckpointOptions = {},
): Promise<CheckpointWriter> {
  checkPlan(plan);
  const { maxShardBytes = 5e9, metadata = { format: "pt" } } = options;
  const places = layOut(split(plan, maxShardBytes), metadata);
  const started = new Set<string>();
  const missing = new Set(places.keys());

  /** Writes one tensor and closes its file if it was the last. */
  const store = async <T>(
    name: string,
    body: (place: Place, sink: () => Promise<ByteSink>) => Promise<T>,
  ): Promise<T> => {
    const place = places.get(name);
    if (place === undefined) fail(ArgumentError, "write", `tensor ${show(name)} is not planned`);
    if (started.has(name)) fail(ArgumentError, "write", `tensor ${show(name)} was written before`);
    started.add(name);
    try {
      const result = await body(
        place,
        async () => (place.file.sink ??= startFile(output, place.file)),
      );
      place.file.missing--;
      if (place.file.missing === 0) await (await place.file.sink)?.close();
      missing.delete(name);
      return result;
    } catch (error) {
      started.delete(name);
      throw error;
    }
  };

  return {
    write: async (name, values) =>
      store(name, async (place, sink) => {
        checkLength(place, values.length, elementCount(place.shape), "values");
        await writeValues(place, 0, values, await sink());
      }),
    writePieces: async (name, pieces) =>
      store(name, async (place, sink) => {
        const rounding = new RoundingError();
        const count = elementCount(place.shape);
        let at = 0;
        for await (const piece of pieces) {
          if (at + piece.length > count) checkLength(place, at + piece.length, count, "values");
          await writeValues(place, at, piece, await sink(), rounding);
          at += piece.length;
        }
        checkLength(place, at, count, "values");
        return rounding.relative;
      }),
    writeBytes: async (name, bytes) =>
      store(name, async (place, sink) => {
        checkLength(place, bytes.length, place.end - place.begin, "bytes");
        await (await sink()).write(place.begin, bytes);
      }),
    close: async () => {
      if (missing.size > 0) {
        const some = [...missing].slice(0, 5).map(show).join(", ");
        const more = missing.size > 5 ? ` and ${missing.size - 5} more` : "";
        fail(
          StateError,
          "close",
          `${missing.size} planned tensors were not written: ${some}${more}`,
        );
      }
      const index = describe(places);
      if (index !== undefined) await output.writeText(INDEX_FILE, index);
    },
  };
}

function checkPlan(plan: readonly TensorInfo[]): void {
  if (plan.length === 0) fail(ArgumentError, "createCheckpoint", "no tensors are planned");
  const names = new Set<string>();
  for (const tensor of plan) {
    checkPlanned("createCheckpoint", tensor);
    if (names.has(tensor.name)) {
      fail(ArgumentError, "createCheckpoint", `tensor ${show(tensor.name)} is planned twice`);
    }
    names.add(tensor.name);
  }
}

/** Fills shards in the order of the plan. */
function split(plan: readonly TensorInfo[], maxShardBytes: number): TensorInfo[][] {
  if (!(maxShardBytes > 0)) {
    fail(ArgumentError, "createCheckpoint", `maxShardBytes is ${maxShardBytes}, not above 0`);
  }
  const shards: TensorInfo[][] = [];
  let room = -1;
  for (const tensor of plan) {
    const bytes = byteSize(tensor);
    if (bytes > room) {
      shards.push([]);
      room = maxShardBytes;
    }
    shards.at(-1)!.push(tensor);
    room -= bytes;
  }
  if (shards.length > MAX_SHARDS) {
    const problem = `${shards.length} shards are above the limit of ${MAX_SHARDS}`;
    fail(
      ArgumentError,
      "createCheckpoint",
      `${problem}; raise maxShardBytes from ${maxShardBytes}`,
    );
  }
  return shards;
}

function layOut(
  shards: readonly TensorInfo[][],
  metadata: Readonly<Record<string, string>>,
): ReadonlyMap<string, Place> {
  const places = new Map<string, Place>();
  shards.forEach((shard, i) => {
    const { head, tensors } = layOutFile(shard, metadata);
    const name = shards.length === 1 ? SINGLE_FILE : shardName(i + 1, shards.length);
    const file: PlannedFile = { name, head, missing: tensors.length, sink: undefined };
    for (const tensor of tensors) places.set(tensor.name, { ...tensor, file });
  });
  return places;
}

function shardName(number: number, count: number): string {
  const digits = (n: number): string => String(n).padStart(5, "0");
  return `model-${digits(number)}-of-${digits(count)}.safetensors`;
}

async function startFile(output: OutputFolder, file: PlannedFile): Promise<ByteSink> {
  const sink = await output.create(file.name);
  await sink.write(0, file.head);
  return sink;
}

function checkLength(place: Place, length: number, expected: number, what: string): void {
  if (length === expected) return;
  const { name, dtype, shape } = place;
  const problem = `${length} ${what} for tensor ${show(name)}, expected ${expected}`;
  fail(ArgumentError, "write", problem, `${dtype}${show(shape)}`);
}

/** Writes values from an element on. */
async function writeValues(
  { name, dtype, begin }: Place,
  first: number,
  values: ArrayLike<number>,
  sink: ByteSink,
  rounding?: RoundingError,
): Promise<void> {
  for (let at = 0; at < values.length; at += CHUNK_ELEMENTS) {
    const piece = slice(values, at, at + CHUNK_ELEMENTS);
    const { bytes, stored } = encodeElements(dtype, piece, (index, problem) =>
      fail(
        ArgumentError,
        "write",
        `tensor ${show(name)}, element ${first + at + index}: ${problem}`,
      ),
    );
    rounding?.add(piece, stored);
    await sink.write(begin + (first + at) * bytesPerStored(dtype), bytes);
  }
}

/** A range of values; of a typed array without a copy. */
function slice(values: ArrayLike<number>, begin: number, end: number): ArrayLike<number> {
  return values instanceof Float64Array || values instanceof Float32Array
    ? values.subarray(begin, end)
    : Array.prototype.slice.call(values, begin, end);
}

/** The text of the index, where there are several files. */
function describe(places: ReadonlyMap<string, Place>): string | undefined {
  const all = [...places.values()];
  if (all.every(({ file }) => file.name === SINGLE_FILE)) return undefined;
  const index = {
    metadata: { total_size: all.reduce((sum, { begin, end }) => sum + end - begin, 0) },
    weight_map: Object.fromEntries(all.map(({ name, file }) => [name, file.name])),
  };
  return `${JSON.stringify(index, null, 2)}\n`;
}
