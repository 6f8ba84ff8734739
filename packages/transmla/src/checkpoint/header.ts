import { ArgumentError, fail, FormatError, UnsupportedError } from "@transmla/core";

import { bytesPerStored, storedDTypes, unsupportedDTypes, type StoredDType } from "./elements.ts";
import { decodeUtf8, isObject, parseJson, show } from "./json.ts";
import { byteSize, type TensorInfo } from "./tensors.ts";

/** A tensor and where its bytes lie, counted from the start of the file. */
export interface StoredTensor extends TensorInfo {
  /** The first byte. */
  readonly begin: number;
  /** One past the last byte. */
  readonly end: number;
}

/** The bound of the reference implementation (safetensors, `tensor.rs`): room for about a million tensors. */
const MAX_HEADER_BYTES = 100_000_000;

/** Bytes of the number in front of the header that says how long it is. */
export const LENGTH_BYTES = 8;

/** No axis of a real tensor comes near it. */
const MAX_AXIS = 2 ** 32;

/** What NumPy and PyTorch can represent. */
const MAX_RANK = 64;

const metadataKey = "__metadata__";

/**
 * Reads the length of the header.
 *
 * @param bytes - The first 8 bytes of the file.
 * @param fileBytes - The size of the file.
 * @param file - What errors call the file.
 * @throws FormatError when the header would be too long or not inside the file.
 */
export function parseLength(bytes: Uint8Array, fileBytes: number, file: string): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, LENGTH_BYTES);
  const length = view.getBigUint64(0, true);
  if (length + BigInt(LENGTH_BYTES) > BigInt(fileBytes)) {
    refuse(`header length ${length} is beyond the file's ${fileBytes} bytes`, file);
  }
  if (length > BigInt(MAX_HEADER_BYTES)) {
    refuse(`header length ${length} is above the limit of ${MAX_HEADER_BYTES}`, file);
  }
  return Number(length);
}

/**
 * Reads the header of a safetensors file and checks all of it: after this every tensor has a known element type, lies
 * inside the file, has the size of its shape, and overlaps no other.
 *
 * @param bytes - The header, without the length in front.
 * @param fileBytes - The size of the file.
 * @param file - What errors call the file.
 * @returns The tensors by name.
 * @throws FormatError when the file breaks a rule of the format.
 * @throws UnsupportedError when a tensor has an element type that this library does not read.
 */
export function parseHeader(
  bytes: Uint8Array,
  fileBytes: number,
  file: string,
): ReadonlyMap<string, StoredTensor> {
  if (bytes[0] !== 0x7b) refuse('the header does not begin with "{"', file);
  const text = decodeUtf8(bytes, "openSafetensors", file);
  // An object of objects of arrays: three levels.
  const header = parseJson(text, "openSafetensors", file, { depth: 3, uniqueKeys: true });
  const dataBegin = LENGTH_BYTES + bytes.length;
  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(header as object)) {
    if (name === metadataKey) checkMetadata(entry, file);
    else tensors.set(name, parseTensor(name, entry, [dataBegin, fileBytes], file));
  }
  checkCoverage([...tensors.values()], [dataBegin, fileBytes], file);
  return tensors;
}

function refuse(problem: string, file: string): never {
  fail(FormatError, "openSafetensors", problem, file);
}

function checkMetadata(entry: unknown, file: string): void {
  const holdsStrings = isObject(entry) && Object.values(entry).every((x) => typeof x === "string");
  if (!holdsStrings) refuse(`${metadataKey} is not an object of strings`, file);
}

/** The first byte of the data and one past the last. */
type DataRange = readonly [begin: number, end: number];

function parseTensor(name: string, entry: unknown, data: DataRange, file: string): StoredTensor {
  const wrong = (problem: string): never => refuse(`tensor ${show(name)}: ${problem}`, file);
  if (!isObject(entry)) return wrong(`${show(entry)} is not an object`);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (!isStored(dtype)) return refuseDType(name, dtype, file);
  if (!isShape(shape, wrong)) return wrong(`shape ${show(shape)} is not an array`);
  if (!isRange(offsets)) {
    return wrong(`data_offsets ${show(offsets)} are not two integers in order`);
  }
  const info = { name, dtype, shape };
  const [begin, end] = offsets;
  const size = byteSize(info);
  if (size !== end - begin) {
    const takes = Number.isNaN(size) ? "more than 2^53" : size;
    wrong(
      `${dtype}${show(shape)} takes ${takes} bytes, data_offsets ${show(offsets)} span ${end - begin}`,
    );
  }
  const dataBytes = data[1] - data[0];
  if (end > dataBytes) {
    wrong(
      `data_offsets ${show(offsets)} end beyond the ${dataBytes} bytes of data; the file is truncated`,
    );
  }
  return { ...info, begin: data[0] + begin, end: data[0] + end };
}

function isStored(dtype: unknown): dtype is StoredDType {
  return storedDTypes.some((known) => known === dtype);
}

function refuseDType(name: string, dtype: unknown, file: string): never {
  const known = `this library reads ${storedDTypes.join(", ")}`;
  if (typeof dtype === "string" && unsupportedDTypes.has(dtype)) {
    const problem = `tensor ${show(name)}: dtype ${dtype} is unsupported; ${known}`;
    fail(UnsupportedError, "openSafetensors", problem, file);
  }
  refuse(`tensor ${show(name)}: dtype ${show(dtype)} is unknown; ${known}`, file);
}

/** Whether a value is a shape; `wrong` is called for an array that is not. */
function isShape(shape: unknown, wrong: (problem: string) => never): shape is readonly number[] {
  if (!Array.isArray(shape)) return false;
  if (shape.length > MAX_RANK) wrong(`${shape.length} axes are above the limit of ${MAX_RANK}`);
  shape.forEach((size: unknown, axis) => {
    if (!Number.isSafeInteger(size) || (size as number) < 0 || (size as number) > MAX_AXIS) {
      wrong(`shape[${axis}] is ${show(size)}, not an integer from 0 to ${MAX_AXIS}`);
    }
  });
  return true;
}

function isRange(offsets: unknown): offsets is readonly [begin: number, end: number] {
  if (!Array.isArray(offsets) || offsets.length !== 2) return false;
  const [begin, end]: readonly unknown[] = offsets;
  if (!Number.isSafeInteger(begin) || !Number.isSafeInteger(end)) return false;
  return (begin as number) >= 0 && (begin as number) <= (end as number);
}

/** The data must be covered exactly, so that no byte has two meanings or none. */
function checkCoverage(tensors: readonly StoredTensor[], data: DataRange, file: string): void {
  const ordered = tensors.toSorted((a, b) => a.begin - b.begin || a.end - b.end);
  let covered = data[0];
  for (const { name, begin, end } of ordered) {
    if (begin !== covered) {
      const fault = begin < covered ? "overlaps the tensor before it" : "leaves a hole before it";
      const places = `begins at ${begin - data[0]}, not at ${covered - data[0]}`;
      refuse(`tensor ${show(name)} ${places}: it ${fault}`, file);
    }
    covered = end;
  }
  if (covered !== data[1]) {
    refuse(`the tensors end at ${covered - data[0]} of ${data[1] - data[0]} bytes of data`, file);
  }
}

/**
 * Throws unless a tensor can be described in a header.
 *
 * @param operation - What errors name as the operation.
 * @param tensor - A tensor that is to be written.
 * @throws ArgumentError when its name, dtype or shape cannot be stored.
 */
export function checkPlanned(operation: string, tensor: TensorInfo): void {
  const { name, dtype, shape } = tensor;
  const wrong = (problem: string): never =>
    fail(ArgumentError, operation, `tensor ${show(name)}: ${problem}`);
  if (name === metadataKey) wrong("the name is reserved for metadata");
  if (!isStored(dtype)) wrong(`dtype ${show(dtype)} is none of ${storedDTypes.join(", ")}`);
  if (!isShape(shape, wrong)) wrong(`shape ${show(shape)} is not an array`);
  if (Number.isNaN(byteSize(tensor))) wrong(`${dtype}${show(shape)} takes more than 2^53 bytes`);
}

/** A safetensors file before any value is known. */
interface FileLayout {
  /** The length, the header and its padding: what stands in front of the data. */
  readonly head: Uint8Array;
  /** Where each tensor goes, in the order of the file. */
  readonly tensors: readonly StoredTensor[];
}

/**
 * Lays out a safetensors file. Tensors of wide elements go first and the data begins at a multiple of 8, so that every
 * tensor is aligned to its elements, as PyTorch demands of memory-mapped files.
 *
 * @param tensors - What the file will hold; the order is kept among elements of one width.
 * @param metadata - What `__metadata__` says.
 * @throws ArgumentError when the header would be beyond the format's limit.
 */
export function layOutFile(
  tensors: readonly TensorInfo[],
  metadata: Readonly<Record<string, string>>,
): FileLayout {
  const width = (tensor: TensorInfo): number => bytesPerStored(tensor.dtype);
  const ordered = tensors.toSorted((a, b) => width(b) - width(a));
  const begins: number[] = [];
  const entries = [`${JSON.stringify(metadataKey)}:${JSON.stringify(metadata)}`];
  let dataBytes = 0;
  for (const { name, dtype, shape } of ordered) {
    begins.push(dataBytes);
    dataBytes += byteSize({ dtype, shape });
    const entry = { dtype, shape, data_offsets: [begins.at(-1), dataBytes] };
    entries.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
  }
  const head = encodeHead(`{${entries.join(",")}}`);
  const place = ({ name, dtype, shape }: TensorInfo, i: number): StoredTensor => {
    const begin = head.length + begins[i]!;
    return { name, dtype, shape, begin, end: begin + byteSize({ dtype, shape }) };
  };
  return { head, tensors: ordered.map(place) };
}

/** The length, the header, and spaces up to a multiple of 8 bytes. */
function encodeHead(header: string): Uint8Array {
  const text = new TextEncoder().encode(header);
  const length = Math.ceil(text.length / 8) * 8;
  if (length > MAX_HEADER_BYTES) {
    const problem = `a header of ${length} bytes is above the limit of ${MAX_HEADER_BYTES}`;
    fail(ArgumentError, "createCheckpoint", `${problem}; write smaller shards`);
  }
  const head = new Uint8Array(LENGTH_BYTES + length).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true);
  head.set(text, LENGTH_BYTES);
  return head;
}
