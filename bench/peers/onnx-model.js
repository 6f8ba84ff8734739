// The smallest ONNX files that hold one operation, as protocol buffers (onnx.proto3).

const FLOAT = 1;

function varint(value) {
  const bytes = [];
  let rest = value;
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  return [...bytes, rest];
}

const number = (field, value) => Buffer.from([...varint(field * 8), ...varint(value)]);

function bytes(field, ...parts) {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part)));
  return Buffer.concat([Buffer.from([...varint(field * 8 + 2), ...varint(body.length)]), body]);
}

function valueInfo(field, name, shape) {
  const dims = shape.map((size) => bytes(1, number(1, size)));
  const tensorType = bytes(1, number(1, FLOAT), bytes(2, ...dims));
  return bytes(field, bytes(1, name), bytes(2, tensorType));
}

/** A model with one node from `a` (and the constant `b`, where given) to `c`. */
function model(operation, a, c, b) {
  const inputs = b ? ["a", "b"] : ["a"];
  const node = [...inputs.map((name) => bytes(1, name)), bytes(2, "c"), bytes(4, operation)];
  const constant = b && [
    bytes(
      5,
      ...b.shape.map((size) => number(1, size)),
      number(2, FLOAT),
      bytes(8, "b"),
      bytes(9, new Uint8Array(b.data.buffer)),
    ),
  ];
  const graph = [bytes(1, ...node), bytes(2, "g"), ...(constant ?? [])];
  const ends = [valueInfo(11, "a", a), valueInfo(12, "c", c)];
  return Buffer.concat([
    number(1, 8), // ir_version
    bytes(7, ...graph, ...ends),
    bytes(8, number(2, 17)), // opset
  ]);
}

/** `c = a b` with a constant `b`, which the runtime may pack. */
export const matmulModel = (b, [m, k, n]) =>
  model("MatMul", [m, k], [m, n], { shape: [k, n], data: b });

/** Softmax over the last axis. */
export const softmaxModel = (shape) => model("Softmax", shape, shape);
