/** Bytes of a module, nested so that larger pieces are made of smaller ones without copying. */
export type Code = readonly (number | Code)[];

/**
 * The bytes of nested code, in order.
 *
 * @param code - Code.
 */
export function flatten(code: Code): number[] {
  const bytes: number[] = [];
  const append = (part: Code): void => {
    for (const item of part) {
      if (typeof item === "number") bytes.push(item);
      else append(item);
    }
  };
  append(code);
  return bytes;
}

/**
 * An unsigned integer in LEB128: seven bits a byte, least significant first, the top bit set on all but the last.
 *
 * @param value - From 0 to 2^32 - 1.
 */
export function unsigned(value: number): number[] {
  const bytes: number[] = [];
  let rest = value >>> 0;
  while (rest > 0x7f) {
    bytes.push((rest & 0x7f) | 0x80);
    rest >>>= 7;
  }
  bytes.push(rest);
  return bytes;
}

/**
 * A signed integer in LEB128: the last byte carries the sign in bit 6.
 *
 * @param value - An integer, of which the low 32 bits count.
 */
export function signed(value: number): number[] {
  const bytes: number[] = [];
  let rest = value | 0;
  while (rest < -0x40 || rest > 0x3f) {
    bytes.push((rest & 0x7f) | 0x80);
    rest >>= 7;
  }
  bytes.push(rest & 0x7f);
  return bytes;
}

/**
 * The four bytes of an f32, little-endian.
 *
 * @param value - A number; it is rounded.
 */
export function float32(value: number): number[] {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value, true);
  return [...new Uint8Array(view.buffer)];
}

/**
 * The eight bytes of an f64, little-endian.
 *
 * @param value - A number.
 */
export function float64(value: number): number[] {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value, true);
  return [...new Uint8Array(view.buffer)];
}

/**
 * A vector of the binary format: how many items, then the items.
 *
 * @param items - The code of each.
 */
export function vector(items: readonly Code[]): Code {
  return [unsigned(items.length), ...items];
}

/**
 * A name: its length in UTF-8, then its bytes. Names here are ASCII.
 *
 * @param characters - The name.
 */
export function name(characters: string): Code {
  return vector(Array.from(characters, (character) => [character.charCodeAt(0)]));
}

/**
 * A section of a module, or the body of a function where there is no id: the size in bytes, then the content.
 *
 * @param content - What it holds.
 * @param id - The number of the section.
 */
export function sized(content: Code, id?: number): Code {
  const bytes = flatten(content);
  return [id === undefined ? [] : id, unsigned(bytes.length), bytes];
}
