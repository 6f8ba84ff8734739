// Counts the memory that code asks for, so that a fuzz can tell a damaged size from a real one.

/** Asking for more is refused, so that a defect shows as an error and not as a machine out of memory. */
class TooMuchMemory extends Error {}

/** What is constructed with a length or from a list. */
const buffers = [
  "ArrayBuffer",
  "Int8Array",
  "Uint8Array",
  "Uint8ClampedArray",
  "Int16Array",
  "Uint16Array",
  "Int32Array",
  "Uint32Array",
  "Float32Array",
  "Float64Array",
  "BigInt64Array",
  "BigUint64Array",
] as const;

type Constructor = new (...args: unknown[]) => object;

/** A place in an array of numbers or objects. */
const BYTES_PER_SLOT = 8;

/** The elements that a constructor or `Array.from` would make; 0 for a view of memory that is there. */
function lengthOf(from: unknown): number {
  if (typeof from === "number") return from;
  if (typeof from !== "object" || from === null || from instanceof ArrayBuffer) return 0;
  const { length, size = 0 } = from as { length?: number; size?: number };
  return length ?? size;
}

/**
 * Runs code with the constructors of buffers, `Array.from` and `repeat` counting bytes.
 *
 * @param limit - The most bytes that the code may ask for, all together.
 * @param body - What is run; nothing else may run in this thread meanwhile.
 * @returns How many bytes were asked for. It is above the limit when a request has been refused.
 */
export async function countAllocations(limit: number, body: () => Promise<void>): Promise<number> {
  let bytes = 0;
  const count = (wanted: number): void => {
    if (wanted > 0) bytes += wanted;
    if (bytes > limit) throw new TooMuchMemory(`${bytes} bytes are above the limit of ${limit}`);
  };
  const undo: (() => void)[] = [];
  const replace = (owner: object, name: string, make: (original: never) => unknown): void => {
    const original = Object.getOwnPropertyDescriptor(owner, name)!;
    Object.defineProperty(owner, name, { ...original, value: make(original.value as never) });
    undo.push(() => Object.defineProperty(owner, name, original));
  };
  for (const name of buffers) {
    replace(globalThis, name, (original: Constructor & { BYTES_PER_ELEMENT?: number }) => {
      return new Proxy(original, {
        construct(target, args: unknown[], derived) {
          count(lengthOf(args[0]) * (original.BYTES_PER_ELEMENT ?? 1));
          return Reflect.construct(target, args, derived) as object;
        },
      });
    });
  }
  replace(Array, "from", (original: typeof Array.from) => {
    return function from(this: unknown, items: ArrayLike<unknown>, ...rest: unknown[]): unknown {
      count(lengthOf(items) * BYTES_PER_SLOT);
      return Reflect.apply(original, this, [items, ...rest]);
    };
  });
  for (const name of ["repeat", "padStart", "padEnd"]) {
    replace(String.prototype, name, (original: (...args: unknown[]) => string) => {
      return function grow(this: string, times: number, ...rest: unknown[]): string {
        count(name === "repeat" ? times * this.length : times);
        return Reflect.apply(original, this, [times, ...rest]);
      };
    });
  }
  try {
    await body();
  } finally {
    for (const restore of undo) restore();
  }
  return bytes;
}
