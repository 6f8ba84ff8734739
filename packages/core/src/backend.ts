import type { DType } from "./dtype.ts";
import type { Blas } from "./linalg/blas.ts";
import type { Shape } from "./shape.ts";

/** A window onto a buffer. Strides and offset count elements, not bytes. */
export interface View {
  /** The element type. */
  readonly dtype: DType;
  /** The size of each axis, outermost first. */
  readonly shape: Shape;
  /** The step of each axis; 0 repeats one element along a broadcast axis. */
  readonly strides: readonly number[];
  /** Where the first element lies in the buffer. */
  readonly offset: number;
}

/** What a kernel receives: a view and the backend's handle of the memory behind it. */
export interface Operand<B> extends View {
  /** The backend's own handle. */
  readonly buffer: B;
}

/** Elementwise functions of one argument. `gelu` is the tanh approximation. */
export type UnaryFunction =
  | "identity"
  | "exp"
  | "log"
  | "rsqrt"
  | "tanh"
  | "sigmoid"
  | "silu"
  | "gelu"
  | "sin"
  | "cos"
  | "abs";

/** Elementwise functions of two arguments. `equal` and `less` give 1 or 0 in the dtype of the operands. */
export type BinaryFunction = "add" | "sub" | "mul" | "div" | "max" | "min" | "equal" | "less";

/** Reductions over the last axis. */
export type ReduceFunction = "sum" | "max";

/** The gates of gated feed-forward layers. */
export type GateFunction = "silu" | "gelu";

/** What limits which keys a query attends to, and how scores are formed. */
export interface AttentionAttributes {
  /** Scores are multiplied by this before anything else. */
  readonly scale: number;
  /** Queries are the last T of S positions and see no later key. */
  readonly causal: boolean;
  /** A query sees itself and this many positions minus one before it; all of them when absent. */
  readonly window?: number | undefined;
  /** Soft cap: scores become `cap * tanh(score / cap)` before masking. */
  readonly cap?: number | undefined;
}

/**
 * The operations that every backend implements, with their attributes. `out` has the right shape and its own memory.
 *
 * The contract of views: `copy`, `unary` and `binary` accept any strides, including 0; `matmul` accepts any batch
 * strides and a transposed last pair of axes, one of which has stride 1; `gather` accepts any table strides. Every other
 * operand has a dense last axis: core copies it first where it has not. The stride of an axis of size 1 means nothing.
 * `out` is dense except for `copy`, where it may be any window.
 *
 * Blocks (`q8`, `q4`: see {@link DType}) may be `a` or `out` of `copy`, `b` of `matmul`, the table of `gather`, the weights
 * of `expertMatmul`, and `k` and `v` of `attention`. Strides and offset count elements there too: element `i` of a buffer
 * is number `i % 32` of block `floor(i / 32)`. `copy` reads blocks by any strides; everywhere else a view starts at a
 * multiple of 32, has adjacent elements along its last axis (for a transposed `b` the last but one), and steps over
 * multiples of 32 along all others; core widens other views to f32. The axis of the blocks may end inside one.
 */
export interface PrimitiveOps {
  /** A ramp along the last axis, no inputs: `out[..., i] = start + step * i`. */
  fill: {
    /** The first value of each row. */
    readonly start: number;
    /** Added from one element of a row to the next. */
    readonly step: number;
  };
  /**
   * `out = a`, converting dtypes. Blocks are copied to f32, and to blocks of their dtype as they are; blocks are made of
   * f32. Where `out` holds blocks, its view is as above, both operands keep their last axis, and elements of a block
   * beyond its end have no meaning afterwards.
   */
  copy: {
    /** Adds to what is there: `out += a`. Never with blocks. */
    readonly accumulate?: boolean;
  };
  /** `out = fn(scale * a + shift)`. */
  unary: {
    /** The function. */
    readonly fn: UnaryFunction;
    /** A factor applied first. */
    readonly scale: number;
    /** A constant added next. */
    readonly shift: number;
  };
  /** `out = fn(a, b)`; both inputs have the shape of `out`. */
  binary: {
    /** The function. */
    readonly fn: BinaryFunction;
  };
  /** `a[..., n] → [..., 1]`. */
  reduce: {
    /** The function. */
    readonly fn: ReduceFunction;
  };
  /** `a[..., m, k] · b[..., k, n] → [..., m, n]`, accumulated in f32 at least; `b` may have another dtype.
   * Where `b` holds blocks, `a` may be rounded to 16-bit integers that share a scale along 32 elements. */
  matmul: object;
  /** `table[..., n, w], rows[..., k] → [..., k, w]`, `rows` of dtype i32 or u32. Rows outside the table give zeros; blocks
   * give f32. */
  gather: object;
  /** `a[..., n] → i32[..., k]`: indices of the k largest, largest first, lower index first among equals. */
  topK: {
    /** How many. */
    readonly k: number;
  };
}

/** Operations that a backend may implement; core composes them from primitives where it does not. */
export interface FusedOps {
  /** Softmax over the last axis. */
  softmax: object;
  /** `x / sqrt(mean(x²) + eps) * (weight + offset)` over the last axis. */
  rmsNorm: {
    /** Added to the mean square. */
    readonly eps: number;
    /** Added to the weight: 1 for Gemma, else 0. */
    readonly offset: number;
  };
  /** Rotates pairs of `x[T, H, D]` by the angles whose cosines and sines are `cos[T, D/2]` and `sin[T, D/2]`. */
  rope: {
    /** Pairs are (2i, 2i+1) when true, (i, i + D/2) when false. */
    readonly interleaved: boolean;
  };
  /** `q[T, H, Dk], k[S, G, Dk], v[S, G, Dv] → [T, H, Dv]`; query head h uses key head `floor(h / (H/G))`. */
  attention: AttentionAttributes;
  /** `fn(gate) * up`. */
  gatedActivation: {
    /** The gate. */
    readonly fn: GateFunction;
  };
  /** `x[..., k, n]` or `x[..., 1, n]`, `weights[E, m, n]`, `ids[..., k] → [..., k, m]`: row i times expert `ids[i]` transposed. */
  expertMatmul: object;
}

/** Every operation and its attributes. */
export interface Ops extends PrimitiveOps, FusedOps {}

/** Writes `out`, which shares no buffer with an input. Never allocates tensors, frees or waits. Returns `false` to decline. */
export type Kernel<B, Attributes> = (
  out: Operand<B>,
  inputs: readonly Operand<B>[],
  attributes: Attributes,
) => void | false;

/** The table of kernels: without a primitive it does not type-check, without a fused operation it does. */
export type Kernels<B> = { readonly [K in keyof PrimitiveOps]: Kernel<B, PrimitiveOps[K]> } & {
  readonly [K in keyof FusedOps]?: Kernel<B, FusedOps[K]>;
};

/** Memory that a backend holds at this moment. */
export interface MemoryCount {
  /** Buffers that have been allocated and not released. */
  readonly buffers: number;
  /** Their bytes, as requested. */
  readonly bytes: number;
}

/** Factorisations a backend may do itself. Each fills dense f32 outputs that core has allocated. */
export interface Routines<B> {
  /** Thin SVD: `a[m, n] → u[m, k], s[k], v[n, k]` with k = min(m, n); s descending. */
  svd?(
    outputs: readonly [u: Operand<B>, s: Operand<B>, v: Operand<B>],
    a: Operand<B>,
  ): Promise<void>;
  /** Thin QR: `a[m, n] → q[m, k], r[k, n]` with k = min(m, n). */
  qr?(outputs: readonly [q: Operand<B>, r: Operand<B>], a: Operand<B>): Promise<void>;
  /** Symmetric eigenproblem: `a[n, n] → values[n], vectors[n, n]`; values descending, vectors in columns. */
  eigh?(outputs: readonly [values: Operand<B>, vectors: Operand<B>], a: Operand<B>): Promise<void>;
}

/**
 * Where tensors live and how operations run on them: a name, four memory functions and a table of kernels.
 *
 * A plain object: a wrapper that counts, times or checks is `{ ...backend, kernels: { ...backend.kernels, matmul } }`.
 */
// The one `any`: code that is generic over backends never looks into a buffer.
// oxlint-disable-next-line typescript/no-explicit-any
export interface Backend<B = any> {
  /** For messages: `cpu`, `webgpu`. */
  readonly name: string;
  /** How each operation runs. */
  readonly kernels: Kernels<B>;
  /** Returns uninitialised memory; throws a `BackendError` that names the sizes when there is none. */
  allocate(bytes: number): B;
  /** Takes a buffer back. Work that was issued before may still read it. */
  release(buffer: B): void;
  /** Copies bytes to the start of a buffer, ordered after all work issued before. The data may be reused at once. */
  write(buffer: B, data: Uint8Array): void;
  /** Copies bytes out, after all work issued before. */
  read(buffer: B, byteOffset: number, byteLength: number): Promise<Uint8Array>;
  /** What is live now; tests assert that it returns to where it began. */
  memory(): MemoryCount;
  /** The most bytes that it can hold, where that is known. */
  readonly capacity?: number;
  /** Factorisations that the backend does itself; core's own f64 ones serve otherwise. */
  readonly routines?: Routines<B>;
  /**
   * Kernels in f64 for the functions of `@transmla/core/linalg`, which take them as an option:
   * `eigh(matrix, { blas: backend.blas })`. The factorisations of tensors use them where there is no routine.
   */
  readonly blas?: Blas | undefined;
  /** Gives up everything the backend holds. */
  dispose(): void;
}
