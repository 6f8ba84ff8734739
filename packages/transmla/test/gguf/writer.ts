// Writes small GGUF files, right or wrong, by the specification of the format.
import { bytesOf } from "@transmla/core";

import { blobFolder, type ByteSource } from "../../src/checkpoint/folder.ts";
import { readGgufNumbers } from "../../src/checkpoint/gguf/file.ts";
import type { GgufTensor } from "../../src/checkpoint/gguf/header.ts";
import { collect, elementCount } from "../../src/checkpoint/tensors.ts";

/** A little-endian number or text by the number of its type. */
type Write = (to: DataWriter, value: unknown) => void;

/** A metadata value with the number of its type. */
export interface Field {
  readonly type: number;
  readonly write: (to: DataWriter) => void;
}

/** A tensor as it is written; nothing is checked. */
export interface WrittenTensor {
  readonly name: string;
  /** Outermost axis first. */
  readonly shape: readonly (number | bigint)[];
  /** The number of the type. */
  readonly type: number;
  readonly data: Uint8Array;
  /** In the place of the right one. */
  readonly offset?: number;
}

/** What a file consists of. */
export interface Content {
  readonly version?: number;
  readonly metadata?: Readonly<Record<string, Field>>;
  readonly tensors?: readonly WrittenTensor[];
  readonly alignment?: number;
  /** In the place of the right ones. */
  readonly counts?: readonly [tensors: bigint, keys: bigint];
}

/** Bytes that grow at the end. */
export class DataWriter {
  readonly bytes: number[] = [];

  number(set: (view: DataView) => void, bytes: number): void {
    const view = new DataView(new ArrayBuffer(bytes));
    set(view);
    this.bytes.push(...new Uint8Array(view.buffer));
  }

  u32(value: number): void {
    this.number((view) => view.setUint32(0, value, true), 4);
  }

  u64(value: number | bigint): void {
    this.number((view) => view.setBigUint64(0, BigInt(value), true), 8);
  }

  text(value: string | Uint8Array): void {
    const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
    this.u64(bytes.length);
    for (const byte of bytes) this.bytes.push(byte);
  }

  padTo(alignment: number): void {
    while (this.bytes.length % alignment !== 0) this.bytes.push(0);
  }
}

const number =
  (bytes: number, set: (view: DataView, value: number) => void): Write =>
  (to, value) =>
    to.number((view) => set(view, value as number), bytes);

/** The types of values in the order of their numbers; 9 is the array. */
const writers: readonly Write[] = [
  number(1, (view, value) => view.setUint8(0, value)),
  number(1, (view, value) => view.setInt8(0, value)),
  number(2, (view, value) => view.setUint16(0, value, true)),
  number(2, (view, value) => view.setInt16(0, value, true)),
  (to, value) => to.u32(value as number),
  number(4, (view, value) => view.setInt32(0, value, true)),
  number(4, (view, value) => view.setFloat32(0, value, true)),
  (to, value) => to.bytes.push(Number(value)),
  (to, value) => to.text(value as string | Uint8Array),
  (to, value) => (value as Field).write(to),
  (to, value) => to.u64(value as bigint),
  (to, value) => to.number((view) => view.setBigInt64(0, value as bigint, true), 8),
  number(8, (view, value) => view.setFloat64(0, value, true)),
];

/** A value by the number of its type. */
export function field(type: number, value: unknown): Field {
  return { type, write: (to) => writers[type]!(to, value) };
}

/** An array of values of one type. */
export function list(type: number, values: readonly unknown[], count = values.length): Field {
  return {
    type: 9,
    write: (to) => {
      to.u32(type);
      to.u64(count);
      for (const value of values) writers[type]!(to, value);
    },
  };
}

export const u32 = (value: number): Field => field(4, value);
export const f32 = (value: number): Field => field(6, value);
export const flag = (value: boolean): Field => field(7, value);
export const text = (value: string): Field => field(8, value);
export const texts = (values: readonly string[]): Field => list(8, values);

/** An F32 tensor. */
export function floats(
  name: string,
  shape: readonly number[],
  values: ArrayLike<number>,
): WrittenTensor {
  return { name, shape, type: 0, data: bytesOf(Float32Array.from(values)) };
}

/** The bytes of a file. */
export function ggufBytes(content: Content): Uint8Array<ArrayBuffer> {
  const { version = 3, metadata = {}, tensors = [], alignment = 32 } = content;
  const keys = Object.entries(metadata);
  const [tensorCount, keyCount] = content.counts ?? [tensors.length, keys.length];
  const to = new DataWriter();
  to.bytes.push(...new TextEncoder().encode("GGUF"));
  to.u32(version);
  to.u64(tensorCount);
  to.u64(keyCount);
  for (const [key, { type, write }] of keys) {
    to.text(key);
    to.u32(type);
    write(to);
  }
  let next = 0;
  const offsets = tensors.map(({ data, offset }) => {
    const at = offset ?? next;
    next = Math.ceil((at + data.length) / alignment) * alignment;
    return at;
  });
  tensors.forEach(({ name, shape, type }, i) => {
    to.text(name);
    to.u32(shape.length);
    for (const size of shape.toReversed()) to.u64(size);
    to.u32(type);
    to.u64(offsets[i]!);
  });
  to.padTo(alignment);
  const data = new Uint8Array(
    Math.max(0, ...tensors.map((tensor, i) => offsets[i]! + tensor.data.length)),
  );
  tensors.forEach((tensor, i) => data.set(tensor.data, offsets[i]));
  return Uint8Array.from([...to.bytes, ...data]);
}

/** A file of these bytes, called `dir/x.gguf`. */
export async function ggufSource(bytes: Uint8Array<ArrayBuffer>): Promise<ByteSource> {
  return blobFolder(new Map([["x.gguf", new Blob([bytes])]]), "dir").open("x.gguf");
}

/** All values of a tensor. */
export async function readWhole(file: ByteSource, tensor: GgufTensor): Promise<Float64Array> {
  return collect(readGgufNumbers(file, tensor), new Float64Array(elementCount(tensor.shape)));
}
