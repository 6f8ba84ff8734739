import { fail, FormatError, UnsupportedError } from "@transmla/core";

/** The part of the file that was read ends too early: reading continues with a longer one. */
export class MoreBytesNeeded extends Error {
  /** How many bytes from the start of the file are needed at least. */
  readonly bytes: number;

  /** @param bytes - How many bytes from the start of the file are needed at least. */
  constructor(bytes: number) {
    super(`${bytes} bytes are needed`);
    this.bytes = bytes;
  }
}

/** The longest known text in a header, a chat template, has below 100 kB. */
const MAX_TEXT_BYTES = 10_000_000;

/** Reads little-endian numbers and texts from the start of a file, one after the other. */
export class Cursor {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #fileBytes: number;
  readonly #file: string;
  readonly #utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #position = 0;

  /**
   * @param bytes - The first bytes of the file.
   * @param fileBytes - The size of the whole file.
   * @param file - What errors call it.
   */
  constructor(bytes: Uint8Array, fileBytes: number, file: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#fileBytes = fileBytes;
    this.#file = file;
  }

  /** Where the next number or text begins. */
  get position(): number {
    return this.#position;
  }

  /** Bytes of the file after the position. */
  get left(): number {
    return this.#fileBytes - this.#position;
  }

  /** Throws a `FormatError` about the file. */
  refuse(problem: string): never {
    fail(FormatError, "readGguf", problem, this.#file);
  }

  /** Throws an `UnsupportedError` about the file. */
  unsupported(problem: string): never {
    fail(UnsupportedError, "readGguf", problem, this.#file);
  }

  /** Takes the next bytes and returns the position of the first. */
  #take(count: number): number {
    const begin = this.#position;
    if (count > this.left) {
      this.refuse(`the file ends at byte ${this.#fileBytes}, inside of the header`);
    }
    if (begin + count > this.#bytes.length) throw new MoreBytesNeeded(begin + count);
    this.#position = begin + count;
    return begin;
  }

  /** The next unsigned byte. */
  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  /** The next signed byte. */
  i8(): number {
    return this.#view.getInt8(this.#take(1));
  }

  /** The next unsigned 16-bit integer. */
  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  /** The next signed 16-bit integer. */
  i16(): number {
    return this.#view.getInt16(this.#take(2), true);
  }

  /** The next unsigned 32-bit integer. */
  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  /** The next signed 32-bit integer. */
  i32(): number {
    return this.#view.getInt32(this.#take(4), true);
  }

  /** The next f32. */
  f32(): number {
    return this.#view.getFloat32(this.#take(4), true);
  }

  /** The next f64. */
  f64(): number {
    return this.#view.getFloat64(this.#take(8), true);
  }

  /** The next unsigned 64-bit integer. */
  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8), true);
  }

  /** The next signed 64-bit integer. */
  i64(): bigint {
    return this.#view.getBigInt64(this.#take(8), true);
  }

  /**
   * The next unsigned 64-bit integer, which counts something.
   *
   * @param limit - The largest one to accept.
   * @param what - What it counts, for errors.
   */
  count(limit: number, what: string): number {
    const value = this.u64();
    if (value > BigInt(limit)) this.refuse(`${what} is ${value}, above the limit of ${limit}`);
    return Number(value);
  }

  /**
   * The next text: its length in bytes and UTF-8.
   *
   * @param what - What it is, for errors.
   */
  text(what: string): string {
    const length = this.count(MAX_TEXT_BYTES, `the length of ${what}`);
    const begin = this.#take(length);
    try {
      return this.#utf8.decode(this.#bytes.subarray(begin, begin + length));
    } catch {
      return this.refuse(`${what}, at byte ${begin}, is not UTF-8`);
    }
  }
}
