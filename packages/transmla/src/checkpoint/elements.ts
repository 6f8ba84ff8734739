import { asHostArray, byteLength, bytesOf, decode, encode, type DType } from "@transmla/core";

/** The element types of stored tensors, by their safetensors names. */
export type StoredDType = "F32" | "F16" | "BF16" | "F64" | "I32" | "I64" | "U8" | "BOOL";

/**
 * The other element types that the format defines. No model that this library runs stores its weights in them.
 */
export const unsupportedDTypes: ReadonlySet<string> = new Set(
  "F4 F6_E2M3 F6_E3M2 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 U32 C64 U64".split(
    " ",
  ),
);

/** Throws an error about one element. */
type Refuse = (index: number, problem: string) => never;

/** How elements of one type become numbers and back. Bytes are little-endian, as is every machine that this runs on. */
interface Codec {
  readonly bytes: number;
  /** Whether a number is stored as it is or not at all. */
  readonly integral: boolean;
  decode(bytes: Uint8Array, refuse: Refuse): ArrayLike<number>;
  encode(values: ArrayLike<number>): Uint8Array;
}

const codecs: Readonly<Record<StoredDType, Codec>> = {
  F32: shared("f32"),
  F16: shared("f16"),
  BF16: shared("bf16"),
  I32: shared("i32", true),
  F64: {
    bytes: 8,
    integral: false,
    decode: (bytes) => new Float64Array(...aligned(bytes)),
    encode: (values) => new Uint8Array(Float64Array.from(values).buffer),
  },
  I64: {
    bytes: 8,
    integral: true,
    decode: (bytes, refuse) =>
      Float64Array.from(new BigInt64Array(...aligned(bytes)), exact(refuse)),
    encode: (values) => new Uint8Array(BigInt64Array.from(values, toBigInt).buffer),
  },
  U8: {
    bytes: 1,
    integral: true,
    decode: (bytes) => bytes,
    encode: (values) => Uint8Array.from(values),
  },
  BOOL: {
    bytes: 1,
    integral: true,
    decode: (bytes, refuse) => {
      const at = bytes.findIndex((byte) => byte > 1);
      return at < 0 ? bytes : refuse(at, `${bytes[at]} is neither 0 nor 1`);
    },
    encode: (values) => Uint8Array.from(values),
  },
};

/** The element types that core knows too. */
function shared(dtype: DType, integral = false): Codec {
  return {
    bytes: byteLength(dtype, 1),
    integral,
    decode: (bytes) => decode(asHostArray(bytes, dtype), dtype),
    encode: (values) => bytesOf(encode(values, dtype)),
  };
}

/** What a typed array of 8-byte elements over these bytes is made from. */
function aligned(bytes: Uint8Array): [ArrayBufferLike, number, number] {
  const at = bytes.byteOffset % 8 === 0 ? bytes : bytes.slice();
  return [at.buffer, at.byteOffset, at.byteLength / 8];
}

function exact(refuse: Refuse): (value: bigint, index: number) => number {
  const limit = 2n ** 53n;
  return (value, index) =>
    -limit <= value && value <= limit
      ? Number(value)
      : refuse(index, `${value} is beyond 2^53 and has no exact f64`);
}

/** What is no integer becomes another value, which the check after encoding finds. */
function toBigInt(value: number): bigint {
  return Number.isInteger(value) && Math.abs(value) <= 2 ** 53 ? BigInt(value) : 0n;
}

/**
 * Bytes of one element.
 *
 * @param dtype - Its type.
 */
export function bytesPerStored(dtype: StoredDType): number {
  return codecs[dtype].bytes;
}

/** The names of the element types that can be read and written. */
export const storedDTypes: readonly StoredDType[] = Object.keys(codecs) as StoredDType[];

/**
 * Widens stored elements to f64, exactly.
 *
 * @param dtype - What the bytes are.
 * @param bytes - A whole number of little-endian elements.
 * @param out - Where the numbers go; as many as there are elements.
 * @param refuse - Called for an I64 beyond 2^53 and a BOOL other than 0 and 1.
 */
export function decodeElements(
  dtype: StoredDType,
  bytes: Uint8Array,
  out: Float64Array,
  refuse: (index: number, problem: string) => never,
): void {
  out.set(codecs[dtype].decode(bytes, refuse));
}

/**
 * Rounds numbers to stored elements, once, to nearest even.
 *
 * @param dtype - What to store.
 * @param values - Any numbers.
 * @param refuse - Called for a finite number that would become infinite, and for one that an integer type cannot hold.
 * @returns Little-endian bytes, and the values that they hold.
 */
export function encodeElements(
  dtype: StoredDType,
  values: ArrayLike<number>,
  refuse: (index: number, problem: string) => never,
): { readonly bytes: Uint8Array; readonly stored: ArrayLike<number> } {
  const codec = codecs[dtype];
  const bytes = codec.encode(values);
  const stored = codec.decode(bytes, refuse);
  for (let i = 0; i < stored.length; i++) {
    const kept = codec.integral
      ? stored[i] === values[i]
      : Number.isFinite(stored[i]) || !Number.isFinite(values[i]);
    if (!kept) refuse(i, `${values[i]} does not fit in ${dtype}`);
  }
  return { bytes, stored };
}
