import {
  asHostArray,
  BackendError,
  BLOCK_SIZE,
  byteLength,
  decode,
  fail,
  isBlock,
  tensor,
  type Backend,
  type DType,
  type Tensor,
} from "@transmla/core";

import { elementCount, type TensorSource } from "./checkpoint/tensors.ts";
import { formatBytes } from "./format-bytes.ts";

/** The widest form in which a model holds its matrices. */
export type WeightDType = "f32" | "bf16" | "q8" | "q4";

/** All of them, widest first. */
export const weightDTypes: readonly WeightDType[] = ["f32", "bf16", "q8", "q4"];

const bits: Readonly<Record<DType, number>> = {
  f32: 32,
  i32: 32,
  u32: 32,
  f16: 16,
  bf16: 16,
  q8: 8,
  q4: 4,
};

/** Routers choose experts: a small error sends a token elsewhere, and they are small. */
const router = /\.gate\.weight$/;

/** Embeddings and the output matrix, often one and the same: what 4 bits change of them goes straight to the logits. */
const vocabulary = /(?:^|\.)(?:embed_tokens|lm_head)\.weight$/;

/**
 * How a weight is held. Vectors and routers are f32. Matrices stay in the form in which they are stored, exactly, unless it
 * is wider than asked for; then they are rounded. Blocks need whole ones: other matrices are bf16 at least. Matrices of the
 * vocabulary are not rounded beyond q8.
 */
function heldDType(
  name: string,
  shape: readonly number[],
  stored: DType,
  asked: WeightDType,
): DType {
  if (shape.length < 2 || router.test(name)) return "f32";
  const widest = asked === "q4" && vocabulary.test(name) ? "q8" : asked;
  const held = bits[stored] <= bits[widest] ? stored : widest;
  const whole = shape.at(-1)! % BLOCK_SIZE === 0;
  if (!isBlock(held) || whole) return held;
  return bits[stored] <= bits.bf16 ? stored : "bf16";
}

/**
 * Reads a weight of a checkpoint.
 *
 * @param backend - Where it goes.
 * @param source - The checkpoint.
 * @param name - Its name.
 * @param widest - The widest form in which a matrix is held.
 */
export async function loadWeight(
  backend: Backend,
  source: TensorSource,
  name: string,
  widest: WeightDType,
): Promise<Tensor> {
  const { shape } = source.tensors.get(name)!;
  const stored = await source.stored(name);
  const held = heldDType(name, shape, stored.dtype, widest);
  const elements = asHostArray(stored.bytes, stored.dtype);
  const values = held === stored.dtype ? elements : decode(elements, stored.dtype);
  return tensor(backend, values, shape, held);
}

/**
 * Throws a `BackendError` when the weights of a checkpoint do not fit on a backend, and says what would. Only headers have
 * been read by then.
 *
 * @param backend - Where they would go.
 * @param source - The checkpoint.
 * @param widest - The widest form in which a matrix would be held.
 * @param label - What the error calls the model.
 */
export function requireRoom(
  backend: Backend,
  source: TensorSource,
  widest: WeightDType,
  label: string,
): void {
  const { capacity } = backend;
  if (capacity === undefined) return;
  const free = capacity - backend.memory().bytes;
  const needed = bytesHeld(source, widest);
  if (needed <= free) return;
  const fitting = weightDTypes
    .slice(weightDTypes.indexOf(widest) + 1)
    .map((dtype) => ({ dtype, bytes: bytesHeld(source, dtype) }))
    .filter(({ bytes }) => bytes <= free)
    .map(({ dtype, bytes }) => `weights ${dtype} with ${formatBytes(bytes)}`);
  const advice =
    fitting.length > 0
      ? `what fits: ${fitting.join(", ")}`
      : "no form of the weights fits: take a smaller model or another backend";
  const room = `${formatBytes(free)} of the ${formatBytes(capacity)} of the ${backend.name} backend are free`;
  fail(
    BackendError,
    "loadModel",
    `with weights ${widest} the model takes ${formatBytes(needed)}, and ${room}; ${advice}`,
    label,
  );
}

function bytesHeld(source: TensorSource, widest: WeightDType): number {
  return [...source.tensors.values()].reduce((sum, { name, shape }) => {
    const dtype = heldDType(name, shape, source.storedDType(name), widest);
    return sum + byteLength(dtype, elementCount(shape));
  }, 0);
}
