import { show } from "../json.ts";
import { elementCount } from "../tensors.ts";
import type { Cursor } from "./cursor.ts";
import { ggufTypes, unsupportedGgufTypes, type GgufType } from "./types.ts";

/** A metadata value. 64-bit integers beyond 2^53 are `bigint`, all other numbers `number`. */
export type GgufValue = number | bigint | boolean | string | readonly GgufValue[];

/** A tensor and where its bytes lie, counted from the start of the file. */
export interface GgufTensor {
  /** Its name: `blk.0.attn_q.weight`. */
  readonly name: string;
  /** How its values are stored. */
  readonly type: GgufType;
  /** The size of each axis, outermost first: the reverse of the order in the file. */
  readonly shape: readonly number[];
  /** The first byte. */
  readonly begin: number;
  /** One past the last byte. */
  readonly end: number;
}

/** What a GGUF file says about itself. */
export interface GgufHeader {
  /** The version of the format: 2 or 3. */
  readonly version: number;
  /** Metadata by key: `general.architecture`. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** Where the value of each key lies in the file, with the number of its type before it. */
  readonly places: ReadonlyMap<string, readonly [begin: number, end: number]>;
  /** The tensors by name, in the order of the file. */
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/** "GGUF" as a little-endian word. */
const MAGIC = 0x46554747;

/** Files have a few dozen keys; those of multimodal models a few hundred. */
const MAX_KEYS = 100_000;

/** The largest models have about 100,000 tensors before their experts are stacked. */
const MAX_TENSORS = 1_000_000;

/** Values in all arrays together: a vocabulary of 2^18 tokens takes below a million. */
const MAX_VALUES = 10_000_000;

/** No known key holds an array of arrays. */
const MAX_DEPTH = 4;

/** The bound of ggml (`GGML_MAX_DIMS`). */
const MAX_RANK = 4;

/** No axis of a real tensor comes near it. */
const MAX_AXIS = 2 ** 32;

/** Where tensors begin unless `general.alignment` says otherwise (GGUF specification). */
const DEFAULT_ALIGNMENT = 32;

/** Alignments in use are 32 and 64; pages have 4096 to 65,536 bytes. */
const MAX_ALIGNMENT = 2 ** 20;

/** Reads one value of a key. */
type ReadValue = (from: Cursor, key: string) => GgufValue;

/** The types of values by their numbers in the file: the fewest bytes that one takes, and how it is read. */
const valueTypes: ReadonlyMap<number, readonly [bytes: number, read: ReadValue]> = new Map<
  number,
  readonly [number, ReadValue]
>([
  [0, [1, (from) => from.u8()]],
  [1, [1, (from) => from.i8()]],
  [2, [2, (from) => from.u16()]],
  [3, [2, (from) => from.i16()]],
  [4, [4, (from) => from.u32()]],
  [5, [4, (from) => from.i32()]],
  [6, [4, (from) => from.f32()]],
  [7, [1, readTruth]],
  [8, [8, (from, key) => from.text(`key ${show(key)}`)]],
  [10, [8, (from) => narrow(from.u64())]],
  [11, [8, (from) => narrow(from.i64())]],
  [12, [8, (from) => from.f64()]],
]);

/** The number of the type of arrays: the type of the elements, their count, the elements. */
const ARRAY = 9;
const ARRAY_BYTES = 12;

function readTruth(from: Cursor, key: string): boolean {
  const byte = from.u8();
  if (byte > 1) from.refuse(`key ${show(key)}: ${byte} is neither 0 nor 1, as truth values are`);
  return byte === 1;
}

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/**
 * Reads the header of a GGUF file and checks all of it: after this every tensor has a known type, lies inside the file,
 * has the size of its shape, and overlaps no other.
 *
 * @param from - At the start of the file.
 * @throws FormatError when the file breaks a rule of the format or is beyond a limit.
 * @throws UnsupportedError for another version of the format, and for a type that this library does not read.
 */
export function parseGgufHeader(from: Cursor): GgufHeader {
  if (from.u32() !== MAGIC) from.refuse('the file does not begin with "GGUF"');
  const version = readVersion(from);
  const tensorCount = from.count(MAX_TENSORS, "the number of tensors");
  const keyCount = from.count(MAX_KEYS, "the number of keys");
  const { metadata, places } = readMetadata(from, keyCount);
  const alignment = readAlignment(from, metadata.get("general.alignment"));
  const infos = new Map<string, TensorInfo>();
  for (let i = 0; i < tensorCount; i++) {
    const name = from.text(`the name of tensor ${i}`);
    if (infos.has(name)) from.refuse(`tensor ${show(name)} is there twice`);
    infos.set(name, readTensorInfo(from, name));
  }
  const dataBegin = Math.ceil(from.position / alignment) * alignment;
  const dataBytes = from.position + from.left - dataBegin;
  const tensors = new Map<string, GgufTensor>();
  for (const [name, { type, shape, offset, bytes }] of infos) {
    const wrong = (problem: string): never => from.refuse(`tensor ${show(name)}: ${problem}`);
    if (offset % BigInt(alignment) !== 0n) {
      wrong(`offset ${offset} is not a multiple of the alignment, ${alignment}`);
    }
    if (offset + BigInt(bytes) > BigInt(Math.max(dataBytes, 0))) {
      const place = `${type.name}[${shape.join(",")}] at offset ${offset} takes ${bytes} bytes`;
      wrong(`${place}, beyond the ${Math.max(dataBytes, 0)} bytes of data; the file is truncated`);
    }
    const begin = dataBegin + Number(offset);
    tensors.set(name, { name, type, shape, begin, end: begin + bytes });
  }
  checkOverlap(from, tensors);
  return { version, metadata, places, tensors };
}

function readVersion(from: Cursor): number {
  const version = from.u32();
  if (version === 2 || version === 3) return version;
  const problem =
    version % 2 ** 16 === 0 && version !== 0
      ? "the file is big-endian; convert it with gguf_convert_endian.py of llama.cpp"
      : `version ${version} of the format is not supported; this library reads versions 2 and 3`;
  return from.unsupported(problem);
}

function readMetadata(from: Cursor, count: number): Pick<GgufHeader, "metadata" | "places"> {
  const metadata = new Map<string, GgufValue>();
  const places = new Map<string, readonly [begin: number, end: number]>();
  const budget = { values: MAX_VALUES };
  for (let i = 0; i < count; i++) {
    const key = from.text(`key ${i}`);
    if (metadata.has(key)) from.refuse(`key ${show(key)} is there twice`);
    const begin = from.position;
    metadata.set(key, readValue(from, from.u32(), key, budget, 0));
    places.set(key, [begin, from.position]);
  }
  return { metadata, places };
}

function readValue(
  from: Cursor,
  type: number,
  key: string,
  budget: { values: number },
  depth: number,
): GgufValue {
  const scalar = valueTypes.get(type);
  if (scalar) return scalar[1](from, key);
  if (type !== ARRAY) from.refuse(`key ${show(key)}: ${type} is no type of a value`);
  if (depth === MAX_DEPTH) from.refuse(`key ${show(key)} nests deeper than ${MAX_DEPTH} arrays`);
  const elementType = from.u32();
  const least = valueTypes.get(elementType)?.[0] ?? ARRAY_BYTES;
  const count = from.count(budget.values, `key ${show(key)}: the number of values`);
  budget.values -= count;
  // Checked before anything is allocated: a damaged count must not cost memory that the file does not have.
  if (count * least > from.left) {
    from.refuse(`key ${show(key)}: ${count} values do not fit in the ${from.left} bytes left`);
  }
  const values: GgufValue[] = [];
  for (let i = 0; i < count; i++) {
    values.push(readValue(from, elementType, key, budget, depth + 1));
  }
  return values;
}

function readAlignment(from: Cursor, value: GgufValue = DEFAULT_ALIGNMENT): number {
  const valid = typeof value === "number" && value >= 1 && value <= MAX_ALIGNMENT;
  if (valid && Number.isInteger(Math.log2(value))) return value;
  return from.refuse(
    `general.alignment is ${String(value)}, not a power of two from 1 to ${MAX_ALIGNMENT}`,
  );
}

/** A tensor as the header describes it. */
interface TensorInfo {
  readonly type: GgufType;
  readonly shape: readonly number[];
  /** From the start of the data. */
  readonly offset: bigint;
  readonly bytes: number;
}

function readTensorInfo(from: Cursor, name: string): TensorInfo {
  const wrong = (problem: string): never => from.refuse(`tensor ${show(name)}: ${problem}`);
  const rank = from.u32();
  if (rank > MAX_RANK) wrong(`${rank} axes are above the limit of ${MAX_RANK}`);
  const shape: number[] = [];
  for (let i = 0; i < rank; i++) {
    const size = from.count(MAX_AXIS, `tensor ${show(name)}: axis ${rank - 1 - i}`);
    if (size === 0) wrong(`axis ${rank - 1 - i} is 0`);
    shape.unshift(size);
  }
  const type = findType(from, name, from.u32());
  const columns = shape.at(-1) ?? 1;
  if (columns % type.blockValues !== 0) {
    wrong(`rows of ${columns} are not whole blocks of ${type.blockValues}, as ${type.name} needs`);
  }
  const bytes = (elementCount(shape) / type.blockValues) * type.blockBytes;
  if (!Number.isSafeInteger(bytes)) {
    wrong(`${type.name}[${shape.join(",")}] takes more than 2^53 bytes`);
  }
  return { type, shape, offset: from.u64(), bytes };
}

function findType(from: Cursor, name: string, number: number): GgufType {
  const type = ggufTypes.get(number);
  if (type) return type;
  const known = [...ggufTypes.values()].map((known) => known.name).join(", ");
  const problem = `tensor ${show(name)}: type ${unsupportedGgufTypes.get(number) ?? number}`;
  if (!unsupportedGgufTypes.has(number)) {
    from.refuse(`${problem} is unknown; this library reads ${known}`);
  }
  return from.unsupported(`${problem} is not supported; quantize the model as one of ${known}`);
}

/** No byte may have two meanings. */
function checkOverlap(from: Cursor, tensors: ReadonlyMap<string, GgufTensor>): void {
  const ordered = [...tensors.values()].toSorted((a, b) => a.begin - b.begin || a.end - b.end);
  let previous: GgufTensor | undefined;
  for (const tensor of ordered) {
    if (previous && tensor.begin < previous.end) {
      from.refuse(`tensors ${show(previous.name)} and ${show(tensor.name)} overlap`);
    }
    previous = tensor;
  }
}
