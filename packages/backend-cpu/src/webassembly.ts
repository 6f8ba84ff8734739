/** The part of `WebAssembly.Memory` that is used here. */
export interface WebAssemblyMemory {
  /** The bytes. Growing detaches this buffer and makes another. */
  readonly buffer: ArrayBuffer;
  /** Adds pages of 64 KiB; throws a `RangeError` when the engine has none. */
  grow(pages: number): number;
}

interface WebAssemblyInterface {
  readonly Memory: new (descriptor: {
    readonly initial: number;
    readonly maximum: number;
  }) => WebAssemblyMemory;
}

/**
 * The global `WebAssembly` (W3C WebAssembly JavaScript Interface). The es2023 library does not declare it, and a global
 * declaration here would clash with those of the DOM and Node libraries.
 */
export const webAssembly: WebAssemblyInterface = (
  globalThis as unknown as { readonly WebAssembly: WebAssemblyInterface }
).WebAssembly;
