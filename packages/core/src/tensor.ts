import type { Backend, Operand } from "./backend.ts";
import { isAligned, isBlock, BLOCK_SIZE } from "./blocks.ts";
import {
  asHostArray,
  byteLength,
  bytesOf,
  decode,
  encode,
  type DType,
  type HostArray,
} from "./dtype.ts";
import { runElementwise } from "./elementwise.ts";
import { ArgumentError, fail, ShapeError, StateError } from "./errors.ts";
import { adopt } from "./scope.ts";
import { denseStrides, isDense, sizeOf, type Shape } from "./shape.ts";

/** Memory on a backend, shared by a tensor and its views and released with the last of them. */
class Storage {
  #uses = 0;
  readonly backend: Backend;
  readonly buffer: unknown;

  constructor(backend: Backend, bytes: number) {
    this.backend = backend;
    this.buffer = backend.allocate(bytes);
  }

  retain(): void {
    this.#uses++;
  }

  release(): void {
    if (--this.#uses === 0) this.backend.release(this.buffer);
  }
}

/**
 * An n-dimensional array on a backend: a view onto counted memory. Immutable but for {@link assign}.
 *
 * Made by {@link tensor}, {@link empty}, {@link full} and the operations. The scope it was made in frees it, or its
 * holder does with `dispose()` or `using`. Views hold the memory they look at: the base may be disposed of first.
 */
export class Tensor implements Operand<unknown>, Disposable {
  #disposed = false;
  readonly #storage: Storage;
  /** The element type. */
  readonly dtype: DType;
  /** The size of each axis, outermost first. */
  readonly shape: Shape;
  /** The step of each axis, in elements. */
  readonly strides: readonly number[];
  /** Where the first element lies, in elements from the start of the buffer. */
  readonly offset: number;

  /** @internal */
  constructor(
    storage: Storage,
    dtype: DType,
    shape: Shape,
    strides: readonly number[],
    offset: number,
  ) {
    this.#storage = storage;
    this.dtype = dtype;
    this.shape = shape;
    this.strides = strides;
    this.offset = offset;
    storage.retain();
    adopt(this);
  }

  /** Where the tensor lives. */
  get backend(): Backend {
    return this.#storage.backend;
  }

  /** The backend's handle of the memory. Throws a `StateError` after `dispose()`. */
  get buffer(): unknown {
    return this.#live().buffer;
  }

  /** The number of axes. */
  get rank(): number {
    return this.shape.length;
  }

  /** The number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** Whether the elements lie in row-major order without gaps. */
  get isDense(): boolean {
    return isDense(this.shape, this.strides);
  }

  #live(): Storage {
    return this.#disposed ? fail(StateError, "tensor", "used after dispose", this) : this.#storage;
  }

  #view(shape: Shape, strides: readonly number[], offset: number): Tensor {
    return new Tensor(this.#live(), this.dtype, shape, strides, offset);
  }

  /** Counts a negative axis from the end. */
  #axis(operation: string, axis: number): number {
    const at = axis < 0 ? axis + this.rank : axis;
    if (!Number.isInteger(at) || at < 0 || at >= this.rank) {
      fail(ShapeError, operation, `axis ${axis} does not exist`, this);
    }
    return at;
  }

  /**
   * A view with the axes in another order.
   *
   * @param axes - Every axis once; negative ones count from the end.
   */
  permute(...axes: readonly number[]): Tensor {
    const order = axes.map((axis) => this.#axis("permute", axis));
    if (order.length !== this.rank || new Set(order).size !== this.rank) {
      fail(ShapeError, "permute", `[${axes.join(",")}] does not name every axis once`, this);
    }
    return this.#view(
      order.map((axis) => this.shape[axis]!),
      order.map((axis) => this.strides[axis]!),
      this.offset,
    );
  }

  /** A view with the last two axes exchanged. */
  transpose(): Tensor {
    if (this.rank < 2) fail(ShapeError, "transpose", "needs two axes", this);
    const axes = this.shape.map((_, axis) => axis);
    return this.permute(...axes.slice(0, -2), this.rank - 1, this.rank - 2);
  }

  /**
   * A view of a range of one axis.
   *
   * @param axis - Which axis; negative ones count from the end.
   * @param start - The first index.
   * @param end - One past the last index.
   */
  slice(axis: number, start: number, end: number): Tensor {
    const at = this.#axis("slice", axis);
    const size = this.shape[at]!;
    if (
      !Number.isInteger(start) ||
      !Number.isInteger(end) ||
      start < 0 ||
      end < start ||
      end > size
    ) {
      fail(
        ShapeError,
        "slice",
        `range ${start}..${end} is not inside axis ${axis} of size ${size}`,
        this,
      );
    }
    return this.#view(
      this.shape.map((length, i) => (i === at ? end - start : length)),
      this.strides,
      this.offset + start * this.strides[at]!,
    );
  }

  /**
   * A view that repeats axes of size 1, and new leading axes, without copying.
   *
   * @param shape - The shape to become, by NumPy's broadcasting rules.
   */
  expand(shape: Shape): Tensor {
    const added = shape.length - this.rank;
    const fits =
      added >= 0 &&
      shape.every((size) => Number.isInteger(size) && size >= 0) &&
      this.shape.every((size, i) => size === shape[i + added] || size === 1);
    if (!fits) fail(ShapeError, "expand", `does not broadcast to [${shape.join(",")}]`, this);
    const strides = shape.map((size, i) => {
      return i < added || this.shape[i - added] !== size ? 0 : this.strides[i - added]!;
    });
    return this.#view(shape, strides, this.offset);
  }

  /**
   * The same elements in row-major order under another shape: a view of a dense tensor, a copy of any other.
   *
   * @param shape - A shape of as many elements; one size may be -1 and is worked out.
   */
  reshape(shape: Shape): Tensor {
    const known = shape.reduce((product, size) => (size === -1 ? product : product * size), 1);
    const open = shape.filter((size) => size === -1).length;
    const full =
      open === 1 && known > 0
        ? shape.map((size) => (size === -1 ? this.size / known : size))
        : shape;
    if (!full.every((size) => Number.isInteger(size) && size >= 0) || sizeOf(full) !== this.size) {
      fail(ShapeError, "reshape", `${this.size} elements cannot become [${shape.join(",")}]`, this);
    }
    if (this.isDense) return this.#view(full, denseStrides(full), this.offset);
    const copy = dense(this);
    const view = copy.#view(full, denseStrides(full), 0);
    copy.dispose();
    return view;
  }

  /**
   * Copies the elements to the host, in row-major order, after all work issued before.
   *
   * @returns Floats; all dtypes but `f32` are widened.
   */
  async read(): Promise<Float32Array> {
    if (this.dtype === "i32" || this.dtype === "u32") {
      fail(ShapeError, "read", "holds integers; call readIntegers()", this);
    }
    return decode(await this.#hostArray(), this.dtype) as Float32Array;
  }

  /** Copies the elements of an `i32` or `u32` tensor to the host. */
  async readIntegers(): Promise<Int32Array | Uint32Array> {
    if (this.dtype !== "i32" && this.dtype !== "u32") {
      fail(ShapeError, "readIntegers", "holds floats; call read()", this);
    }
    return decode(await this.#hostArray(), this.dtype) as Int32Array | Uint32Array;
  }

  async #hostArray(): Promise<HostArray> {
    const source = isBlock(this.dtype) ? copied(this, "f32") : dense(this);
    try {
      const { buffer, offset, size, dtype } = source;
      // The offset of an empty window may lie outside the buffer.
      if (size === 0) return asHostArray(new Uint8Array(), dtype);
      const bytes = await this.backend.read(
        buffer,
        byteLength(dtype, offset),
        byteLength(dtype, size),
      );
      return asHostArray(bytes, dtype);
    } finally {
      if (source !== this) source.dispose();
    }
  }

  /** Gives up the memory, when no other view holds it. Disposing twice is allowed. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#storage.release();
  }

  /** The same as `dispose()`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Prints dtype and shape: `f32[4,8]`. */
  toString(): string {
    return `${this.dtype}[${this.shape.join(",")}]`;
  }

  /** @internal Whether two tensors look at the same memory. */
  sharesMemoryWith(other: Tensor): boolean {
    return this.#storage === other.#storage;
  }
}

/**
 * A dense tensor with undefined contents.
 *
 * @param backend - Where it lives.
 * @param shape - Its sizes.
 * @param dtype - Its element type. The last axis of `q8` and `q4` is a multiple of 32.
 */
export function empty(backend: Backend, shape: Shape, dtype: DType = "f32"): Tensor {
  if (!shape.every((size) => Number.isInteger(size) && size >= 0)) {
    fail(ShapeError, "empty", `[${shape.join(",")}] is not a shape`);
  }
  if (isBlock(dtype) && (shape.at(-1) ?? 1) % BLOCK_SIZE !== 0) {
    fail(
      ShapeError,
      "empty",
      `${dtype}[${shape.join(",")}] has a last axis that is not a multiple of ${BLOCK_SIZE}`,
    );
  }
  const storage = new Storage(backend, byteLength(dtype, sizeOf(shape)));
  return new Tensor(storage, dtype, shape, denseStrides(shape), 0);
}

/**
 * A tensor with the given elements, which are copied.
 *
 * @param backend - Where it lives.
 * @param values - Numbers in row-major order, rounded once to the dtype. A `Uint16Array` for `f16` or `bf16` is taken as
 *   bits, a `Uint8Array` for `q8` or `q4` as blocks.
 * @param shape - Its sizes.
 * @param dtype - Its element type.
 *
 * @example
 * ```ts
 * import { cpuBackend } from "@transmla/backend-cpu";
 * import { matmul, tensor } from "@transmla/core";
 * const backend = await cpuBackend();
 * const a = tensor(backend, [1, 2, 3, 4], [2, 2]);
 * const b = matmul(a, a.transpose());
 * console.log(Array.from(await b.read())); // => [5, 11, 11, 25]
 * ```
 */
export function tensor(
  backend: Backend,
  values: ArrayLike<number>,
  shape: Shape,
  dtype: DType = "f32",
): Tensor {
  const packed = isBlock(dtype) && values instanceof Uint8Array;
  const needed = packed ? byteLength(dtype, sizeOf(shape)) : sizeOf(shape);
  if (values.length !== needed) {
    fail(
      ArgumentError,
      "tensor",
      `shape [${shape.join(",")}] needs ${needed} ${packed ? `bytes of ${dtype}` : "values"}, got ${values.length}`,
    );
  }
  const out = empty(backend, shape, dtype);
  const host = isHostArray(values, dtype) ? values : encode(values, dtype);
  if (host.length > 0) backend.write(out.buffer, bytesOf(host));
  return out;
}

function isHostArray(values: ArrayLike<number>, dtype: DType): values is HostArray {
  switch (dtype) {
    case "f32":
      return values instanceof Float32Array;
    case "i32":
      return values instanceof Int32Array;
    case "u32":
      return values instanceof Uint32Array;
    case "f16":
    case "bf16":
      return values instanceof Uint16Array;
    case "q8":
    case "q4":
      return values instanceof Uint8Array;
  }
}

/**
 * A tensor with the same elements in dense row-major order: the tensor itself where it is dense, else a copy.
 *
 * @param x - Any tensor.
 */
export function dense(x: Tensor): Tensor {
  return x.isDense ? x : copied(x, x.dtype);
}

/**
 * @internal A copy that a kernel can take: dense but for the last axis of blocks, which may end inside one. Views that cut
 * through blocks become f32.
 */
export function operandCopy(x: Tensor): Tensor {
  if (!isBlock(x.dtype)) return copied(x, x.dtype);
  if (!isAligned(x)) return copied(x, "f32");
  const width = x.shape.at(-1)!;
  const whole = Math.ceil(width / BLOCK_SIZE) * BLOCK_SIZE;
  using base = empty(x.backend, [...x.shape.slice(0, -1), whole], x.dtype);
  const out = base.slice(-1, 0, width);
  copyInto(out, x);
  return out;
}

/** A dense tensor of its own with the same elements. */
function copied(x: Tensor, dtype: DType): Tensor {
  if (isBlock(dtype) && !isAligned(x)) {
    fail(ShapeError, "dense", "the view cuts through blocks; cast it to f32", x);
  }
  const out = empty(x.backend, x.shape, dtype);
  copyInto(out, x);
  return out;
}

/** Fills a new tensor, or frees it. */
function copyInto(out: Tensor, x: Tensor): void {
  if (x.size > 0 && !runElementwise(x.backend.kernels.copy, out, [x], {})) {
    out.dispose();
    fail(ShapeError, "copy", `the ${x.backend.name} backend declined it`, x);
  }
}
