export * from "./backend.ts";
export * from "./blocks.ts";
export * from "./dtype.ts";
export * from "./errors.ts";
export * from "./shape.ts";
export { keep, scope, type Owned } from "./scope.ts";
export { dense, empty, tensor, Tensor } from "./tensor.ts";
export {
  add,
  affine,
  assign,
  cast,
  concat,
  div,
  equal,
  full,
  gather,
  less,
  matmul,
  max,
  maximum,
  minimum,
  mul,
  sub,
  sum,
  topK,
  unary,
} from "./ops.ts";
export { attention, expertMatmul, gatedActivation, rmsNorm, rope, softmax } from "./fused.ts";
export {
  eigh,
  qr,
  svd,
  type EighTensors,
  type QrTensors,
  type SvdTensors,
} from "./factorizations.ts";
