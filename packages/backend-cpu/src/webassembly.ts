/** The part of `WebAssembly.Memory` that is used here. */
export interface WebAssemblyMemory {
  /** The bytes. Growing makes another buffer: it detaches this one, or leaves it as it is where it is shared. */
  readonly buffer: ArrayBufferLike;
  /** Adds pages of 64 KiB; throws a `RangeError` when the engine has none. */
  grow(pages: number): number;
}

/** A compiled module, which can be instantiated many times. */
export type WebAssemblyModule = object;

/** A function that a module exports. Addresses of 2^31 and more may be passed as they are. */
export type WebAssemblyFunction = (...arguments_: readonly number[]) => number | undefined;

interface WebAssemblyInterface {
  readonly Memory: new (descriptor: {
    readonly initial: number;
    readonly maximum: number;
    readonly shared?: boolean;
  }) => WebAssemblyMemory;
  readonly Module: new (bytes: Uint8Array<ArrayBuffer>) => WebAssemblyModule;
  readonly Instance: new (
    module: WebAssemblyModule,
    imports: { readonly env: { readonly memory: WebAssemblyMemory } },
  ) => { readonly exports: Readonly<Record<string, WebAssemblyFunction>> };
  validate(bytes: Uint8Array<ArrayBuffer>): boolean;
}

/**
 * The global `WebAssembly` (W3C WebAssembly JavaScript Interface). The es2023 library does not declare it, and a global
 * declaration here would clash with those of the DOM and Node libraries.
 */
export const webAssembly: WebAssemblyInterface = (
  globalThis as unknown as { readonly WebAssembly: WebAssemblyInterface }
).WebAssembly;
