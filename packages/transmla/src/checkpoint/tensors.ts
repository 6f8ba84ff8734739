import {
  ArgumentError,
  BackendError,
  bytesOf,
  fail,
  FormatError,
  StateError,
  type DType,
} from "@transmla/core";

import { bytesPerStored, decodeElements, encodeElements, type StoredDType } from "./elements.ts";
import { show } from "./json.ts";

/** A stored tensor without its values. */
export interface TensorInfo {
  /** Its name in the checkpoint: `model.norm.weight`. */
  readonly name: string;
  /** The stored element type. */
  readonly dtype: StoredDType;
  /** The size of each axis, outermost first; empty for a single number. */
  readonly shape: readonly number[];
}

/** The values of a tensor, before they are rounded to its stored type. */
export interface TensorValues extends Omit<TensorInfo, "name"> {
  /** In row-major order. */
  readonly values: ArrayLike<number>;
}

/** Elements as a tensor of core holds them. */
export interface StoredElements {
  /** What they are. */
  readonly dtype: DType;
  /** The elements or blocks, little-endian and row-major. */
  readonly bytes: Uint8Array;
}

/** The tensors of a model, read one by one. */
export interface TensorSource {
  /** What there is, by name. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /**
   * The stored bytes of a tensor, little-endian and row-major. The caller owns them.
   *
   * @param name - A key of `tensors`.
   */
  bytes(name: string): Promise<Uint8Array>;
  /**
   * The elements of a tensor in the narrowest form that tensors of core have for them and that holds them exactly; f64 and
   * integers are rounded to f32. The caller owns the bytes.
   *
   * @param name - A key of `tensors`.
   */
  stored(name: string): Promise<StoredElements>;
  /**
   * The form in which `stored` gives a tensor; nothing is read.
   *
   * @param name - A key of `tensors`.
   */
  storedDType(name: string): DType;
  /**
   * The values of a tensor in row-major order, widened to f64 exactly. The caller owns them.
   *
   * @param name - A key of `tensors`.
   * @throws FormatError for an I64 beyond 2^53 and a BOOL other than 0 and 1.
   */
  numbers(name: string): Promise<Float64Array>;
  /**
   * The same values a piece at a time, in order, so that memory need not hold the tensor. The caller owns each piece.
   *
   * @param name - A key of `tensors`.
   */
  pieces(name: string): AsyncGenerator<Float64Array>;
  /** Lets go of the files. Reading afterwards is an error. */
  close(): Promise<void>;
}

/**
 * Elements of one step when values are widened or rounded: large enough for the disk, small beside any tensor that
 * matters, so that a tensor is not held in both forms.
 */
export const CHUNK_ELEMENTS: number = 1 << 20;

/**
 * The number of elements of a shape, or NaN when it is beyond 2^53.
 *
 * @param shape - Sizes of 0 or more.
 */
export function elementCount(shape: readonly number[]): number {
  const count = shape.reduce((product, size) => product * size, 1);
  return count <= Number.MAX_SAFE_INTEGER ? count : Number.NaN;
}

/**
 * The number of bytes of a tensor, or NaN when it is beyond 2^53.
 *
 * @param tensor - Its element type and shape.
 */
export function byteSize(tensor: Pick<TensorInfo, "dtype" | "shape">): number {
  const bytes = elementCount(tensor.shape) * bytesPerStored(tensor.dtype);
  return bytes <= Number.MAX_SAFE_INTEGER ? bytes : Number.NaN;
}

/** The stored types that tensors of core have too. */
const sameInCore: Partial<Record<StoredDType, DType>> = { F32: "f32", F16: "f16", BF16: "bf16" };

/**
 * Makes a source out of ways to read a tensor that is known to exist.
 *
 * @param label - What errors call the source.
 * @param tensors - What there is, by name.
 * @param store - How to read a tensor and how to let go of the files.
 */
export function tensorSource<T extends TensorInfo>(
  label: string,
  tensors: ReadonlyMap<string, T>,
  store: {
    bytes(tensor: T): Promise<Uint8Array>;
    /** Where it is not what the dtype says. */
    stored?(tensor: T): Promise<StoredElements | undefined>;
    /** Its form then. */
    storedDType?(tensor: T): DType | undefined;
    pieces(tensor: T): AsyncGenerator<Float64Array>;
    close(): Promise<void>;
  },
): TensorSource {
  let closed = false;
  const find = (operation: string, name: string): T => {
    if (closed) fail(StateError, operation, "used after close", label);
    return tensors.get(name) ?? fail(ArgumentError, operation, `no tensor ${show(name)}`, label);
  };
  const widened = async (tensor: T): Promise<Float64Array> => {
    const out = allocate(elementCount(tensor.shape), tensor, label);
    return collect(store.pieces(tensor), out);
  };
  return {
    tensors,
    bytes: async (name) => store.bytes(find("bytes", name)),
    stored: async (name) => {
      const tensor = find("stored", name);
      const other = await store.stored?.(tensor);
      if (other) return other;
      const dtype = sameInCore[tensor.dtype];
      if (dtype) return { dtype, bytes: await store.bytes(tensor) };
      const numbers = Float32Array.from(await widened(tensor));
      return { dtype: "f32", bytes: bytesOf(numbers) };
    },
    storedDType: (name) => {
      const tensor = find("storedDType", name);
      return store.storedDType?.(tensor) ?? sameInCore[tensor.dtype] ?? "f32";
    },
    numbers: async (name) => widened(find("numbers", name)),
    pieces: (name) => store.pieces(find("pieces", name)),
    close: async () => {
      if (closed) return;
      closed = true;
      await store.close();
    },
  };
}

/**
 * Puts pieces together.
 *
 * @param pieces - In order.
 * @param out - Where they go; as long as all of them.
 */
export async function collect(
  pieces: AsyncIterable<Float64Array>,
  out: Float64Array,
): Promise<Float64Array> {
  let at = 0;
  for await (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}

/**
 * Reads a tensor as numbers, a piece at a time.
 *
 * @param tensor - What is read.
 * @param label - What errors call the source.
 * @param read - Returns a range of the tensor's bytes.
 */
export async function* readPieces(
  tensor: TensorInfo,
  label: string,
  read: (begin: number, end: number) => Promise<Uint8Array>,
): AsyncGenerator<Float64Array> {
  const count = elementCount(tensor.shape);
  const size = bytesPerStored(tensor.dtype);
  for (let at = 0; at < count; at += CHUNK_ELEMENTS) {
    const end = Math.min(at + CHUNK_ELEMENTS, count);
    const bytes = await read(at * size, end * size);
    const piece = new Float64Array(end - at);
    decodeElements(tensor.dtype, bytes, piece, (index, problem) =>
      fail(
        FormatError,
        "numbers",
        `tensor ${show(tensor.name)}, element ${at + index}: ${problem}`,
        label,
      ),
    );
    yield piece;
  }
}

function allocate(count: number, tensor: TensorInfo, label: string): Float64Array {
  try {
    return new Float64Array(count);
  } catch {
    const problem = `no memory for the ${count} elements of ${show(tensor.name)} as f64`;
    fail(BackendError, "numbers", problem, label);
  }
}

/**
 * Tensors held in memory. They are rounded to their stored type, so that they read as they would from a file.
 *
 * @param tensors - Type, shape and values in row-major order, by name.
 * @throws ArgumentError when values do not fill their shape or do not fit in their type.
 *
 * @example
 * ```ts
 * import { memoryTensors } from "transmla";
 * const source = memoryTensors(new Map([["a", { dtype: "BF16", shape: [2], values: [1.001, 3] }]]));
 * console.log(Array.from(await source.numbers("a"))); // => [1, 3]
 * ```
 */
export function memoryTensors(tensors: ReadonlyMap<string, TensorValues>): TensorSource {
  const label = "memory";
  const held = new Map<string, TensorInfo & { readonly stored: Uint8Array }>();
  for (const [name, { dtype, shape, values }] of tensors) {
    const refuse = (problem: string): never =>
      fail(ArgumentError, "memoryTensors", `tensor ${show(name)}${problem}`);
    if (values.length !== elementCount(shape)) {
      refuse(`: ${values.length} values do not fill [${shape.join(",")}]`);
    }
    const { bytes } = encodeElements(dtype, values, (index, problem) =>
      refuse(`, element ${index}: ${problem}`),
    );
    held.set(name, { name, dtype, shape, stored: bytes });
  }
  return tensorSource(label, held, {
    bytes: async ({ stored }) => stored.slice(),
    pieces: (tensor) =>
      readPieces(tensor, label, async (begin, end) => tensor.stored.subarray(begin, end)),
    close: async () => {},
  });
}
