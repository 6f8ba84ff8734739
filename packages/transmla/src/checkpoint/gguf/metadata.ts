// Metadata values as the bytes that stand for them in a file: the number of the type, then the value.

/** Little-endian bytes that grow at the end. */
export class ByteWriter {
  #bytes = new Uint8Array(256);
  #length = 0;

  /** Makes room for more bytes and returns a view of them. */
  #reserve(count: number): DataView {
    if (this.#length + count > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(2 * this.#bytes.length, this.#length + count));
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    const view = new DataView(this.#bytes.buffer, this.#length, count);
    this.#length += count;
    return view;
  }

  /** An unsigned byte. */
  u8(value: number): this {
    this.#reserve(1).setUint8(0, value);
    return this;
  }

  /** An unsigned 32-bit integer. */
  u32(value: number): this {
    this.#reserve(4).setUint32(0, value, true);
    return this;
  }

  /** A signed 32-bit integer. */
  i32(value: number): this {
    this.#reserve(4).setInt32(0, value, true);
    return this;
  }

  /** An unsigned 64-bit integer. */
  u64(value: number): this {
    this.#reserve(8).setBigUint64(0, BigInt(value), true);
    return this;
  }

  /** An f32. */
  f32(value: number): this {
    this.#reserve(4).setFloat32(0, value, true);
    return this;
  }

  /** A text: its length in bytes, and UTF-8. */
  text(value: string): this {
    const bytes = new TextEncoder().encode(value);
    return this.u64(bytes.length).bytes(bytes);
  }

  /** Bytes as they are. */
  bytes(value: Uint8Array): this {
    const { buffer, byteOffset } = this.#reserve(value.length);
    new Uint8Array(buffer, byteOffset, value.length).set(value);
    return this;
  }

  /** Zeros until the length is a multiple of a number. */
  padTo(alignment: number): this {
    this.#reserve((alignment - (this.#length % alignment)) % alignment);
    return this;
  }

  /** What was written; valid until the next write. */
  get written(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
}

/** The numbers of the types of values that are written. */
const [U32, I32, F32, BOOL, TEXT, ARRAY] = [4, 5, 6, 7, 8, 9] as const;

/** A metadata value: an unsigned 32-bit integer. */
export const u32 = (value: number): Uint8Array => new ByteWriter().u32(U32).u32(value).written;

/** A metadata value: an f32. */
export const f32 = (value: number): Uint8Array => new ByteWriter().u32(F32).f32(value).written;

/** A metadata value: true or false. */
export const flag = (value: boolean): Uint8Array =>
  new ByteWriter().u32(BOOL).u8(Number(value)).written;

/** A metadata value: a text. */
export const text = (value: string): Uint8Array => new ByteWriter().u32(TEXT).text(value).written;

/** A metadata value: a list of texts. */
export const texts = (values: readonly string[]): Uint8Array =>
  list(TEXT, values, (to, value) => to.text(value));

/** A metadata value: a list of signed 32-bit integers. */
export const integers = (values: readonly number[]): Uint8Array =>
  list(I32, values, (to, value) => to.i32(value));

/** A metadata value: a list of f32 numbers. */
export const floats = (values: readonly number[]): Uint8Array =>
  list(F32, values, (to, value) => to.f32(value));

function list<T>(
  type: number,
  values: readonly T[],
  write: (to: ByteWriter, value: T) => void,
): Uint8Array {
  const to = new ByteWriter().u32(ARRAY).u32(type).u64(values.length);
  for (const value of values) write(to, value);
  return to.written;
}
