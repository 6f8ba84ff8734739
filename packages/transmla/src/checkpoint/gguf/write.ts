import { ArgumentError, fail, StateError } from "@transmla/core";

import { show } from "../json.ts";
import type { ByteSink } from "../output.ts";
import { RoundingError } from "../rounding.ts";
import { CHUNK_ELEMENTS, elementCount } from "../tensors.ts";
import { ByteWriter } from "./metadata.ts";
import { ggufTypes, writableTypes, type GgufWritableType } from "./types.ts";

/** Where tensors begin: the default of the format. */
const ALIGNMENT = 32;

/** A tensor that will be written. */
export interface PlannedGgufTensor {
  /** Its name: `blk.0.attn_q.weight`. */
  readonly name: string;
  /** How its values are stored. */
  readonly type: GgufWritableType;
  /** The size of each axis, outermost first; rows of `Q8_0` are multiples of 32. */
  readonly shape: readonly number[];
}

/** Writes the tensors of a planned GGUF file, in any order. */
export interface GgufWriter {
  /**
   * Writes a tensor that comes in pieces, each value rounded once.
   *
   * @param name - A planned tensor that was not written before.
   * @param pieces - Its values in row-major order; each piece consists of whole blocks.
   * @returns What rounding costs: ‖rounded - exact‖ / ‖exact‖.
   * @throws ArgumentError when the tensor is not planned, the number of values is another, or one is beyond the type.
   */
  write(name: string, pieces: AsyncIterable<Float64Array>): Promise<number>;
  /**
   * Ends the file.
   *
   * @throws StateError when planned tensors were not written.
   */
  close(): Promise<void>;
}

/** Where a tensor goes. */
interface Place extends PlannedGgufTensor {
  readonly begin: number;
}

/**
 * Starts a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3). Everything is laid out
 * before any value is known, so that values stream to their places.
 *
 * @param sink - Where it goes; closed by `close`.
 * @param metadata - Values by key, in the bytes that `metadata.ts` makes of them.
 * @param plan - What will be written, in this order.
 * @throws ArgumentError when a name is planned twice, or rows are not whole blocks.
 */
export async function createGguf(
  sink: ByteSink,
  metadata: ReadonlyMap<string, Uint8Array>,
  plan: readonly PlannedGgufTensor[],
): Promise<GgufWriter> {
  const { head, places, end } = layOut(metadata, plan);
  await sink.write(0, head);
  const missing = new Set(places.keys());
  const ends = [...places.values()].map((place) => place.begin + bytesOf(place));
  const written = Math.max(head.length, ...ends);
  return {
    write: async (name, pieces) => {
      const place = places.get(name);
      if (!place) fail(ArgumentError, "createGguf", `tensor ${show(name)} is not planned`);
      if (!missing.has(name)) {
        fail(ArgumentError, "createGguf", `tensor ${show(name)} was written before`);
      }
      const relative = await writeTensor(sink, place, pieces);
      missing.delete(name);
      return relative;
    },
    close: async () => {
      if (missing.size > 0) {
        const some = [...missing].slice(0, 5).map(show).join(", ");
        const problem = `${missing.size} planned tensors were not written: ${some}`;
        fail(StateError, "createGguf", problem);
      }
      if (end > written) await sink.write(written, new Uint8Array(end - written)); // padded as all others
      await sink.close();
    },
  };
}

/** The bytes that a tensor takes. */
function bytesOf(tensor: PlannedGgufTensor): number {
  const { blockValues, blockBytes } = writableTypes[tensor.type];
  return (elementCount(tensor.shape) / blockValues) * blockBytes;
}

function layOut(
  metadata: ReadonlyMap<string, Uint8Array>,
  plan: readonly PlannedGgufTensor[],
): { head: Uint8Array; places: ReadonlyMap<string, Place>; end: number } {
  const to = new ByteWriter().bytes(new TextEncoder().encode("GGUF")).u32(3);
  to.u64(plan.length).u64(metadata.size);
  for (const [key, value] of metadata) to.text(key).bytes(value);
  const numbers = new Map([...ggufTypes].map(([number, { name }]) => [name, number]));
  const offsets = new Map<string, number>();
  let offset = 0;
  for (const tensor of plan) {
    const { name, type, shape } = tensor;
    const refuse = (problem: string): never =>
      fail(ArgumentError, "createGguf", `tensor ${show(name)} ${problem}`);
    if (offsets.has(name)) refuse("is planned twice");
    const { blockValues } = writableTypes[tensor.type];
    if ((shape.at(-1) ?? 1) % blockValues !== 0) {
      refuse(`has rows of ${shape.at(-1)}, not whole blocks of ${blockValues}, as ${type} needs`);
    }
    to.text(name).u32(shape.length);
    for (const size of shape.toReversed()) to.u64(size);
    to.u32(numbers.get(type)!).u64(offset);
    offsets.set(name, offset);
    offset = Math.ceil((offset + bytesOf(tensor)) / ALIGNMENT) * ALIGNMENT;
  }
  const head = to.padTo(ALIGNMENT).written;
  const places = plan.map((tensor): [string, Place] => {
    return [tensor.name, { ...tensor, begin: head.length + offsets.get(tensor.name)! }];
  });
  return { head, places: new Map(places), end: head.length + offset };
}

async function writeTensor(
  sink: ByteSink,
  place: Place,
  pieces: AsyncIterable<Float64Array>,
): Promise<number> {
  const { name, type, shape, begin } = place;
  const stored = writableTypes[type];
  const { blockValues, blockBytes } = stored;
  const count = elementCount(shape);
  const rounding = new RoundingError();
  let at = 0;
  const refuse = (problem: string): never =>
    fail(ArgumentError, "createGguf", `tensor ${show(name)}${problem}`, `${type}${show(shape)}`);
  for await (const whole of pieces) {
    for (let from = 0; from < whole.length; from += CHUNK_ELEMENTS) {
      const piece = whole.subarray(from, from + CHUNK_ELEMENTS);
      if (at + piece.length > count) refuse(`: more than ${count} values`);
      const blocks = piece.length / blockValues;
      if (!Number.isInteger(blocks)) refuse(`: ${piece.length} values are not whole blocks`);
      const bytes = stored.quantize(piece);
      const read = new Float64Array(piece.length);
      stored.dequantize(bytes, read);
      const wrong = read.findIndex((x, i) => !Number.isFinite(x) && Number.isFinite(piece[i]));
      if (wrong >= 0) refuse(`, element ${at + wrong}: ${piece[wrong]} does not fit in ${type}`);
      rounding.add(piece, read);
      await sink.write(begin + (at / blockValues) * blockBytes, bytes);
      at += piece.length;
    }
  }
  if (at !== count) refuse(`: ${at} values, expected ${count}`);
  return rounding.relative;
}
