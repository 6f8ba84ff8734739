import { asHostArray, bytesOf, decode, encode } from "@transmla/core";

import { dequantizeQ45K, dequantizeQ6K } from "./k-quants.ts";
import {
  dequantizeQ4,
  dequantizeQ5,
  dequantizeQ8,
  quantizeQ8,
  type Numbers,
} from "./legacy-quants.ts";

/** How the values of one type of tensor are stored. */
export interface GgufType {
  /** As ggml calls it: `Q4_K`. */
  readonly name: string;
  /** Values of a block; rows consist of whole blocks. */
  readonly blockValues: number;
  /** Bytes of a block. */
  readonly blockBytes: number;
  /**
   * Computes the values of whole blocks.
   *
   * @param bytes - The blocks.
   * @param out - Their values; as many as the blocks hold.
   */
  dequantize(bytes: Uint8Array, out: Numbers): void;
}

type Dequantize = GgufType["dequantize"];
type PlainDType = "f32" | "f16" | "bf16";

function type(
  name: string,
  blockValues: number,
  blockBytes: number,
  dequantize: Dequantize,
): GgufType {
  return { name, blockValues, blockBytes, dequantize };
}

function plain(dtype: PlainDType): Dequantize {
  return (bytes, out) => out.set(decode(asHostArray(bytes, dtype), dtype));
}

/** A type that tensors can be written in. */
export interface Writable extends GgufType {
  /**
   * Rounds values, a whole number of blocks, once.
   *
   * @param values - In row-major order.
   */
  quantize(values: Float64Array): Uint8Array;
}

const rounded =
  (dtype: PlainDType): Writable["quantize"] =>
  (values) =>
    bytesOf(encode(values, dtype));

/** The name of a type that tensors can be written in. */
export type GgufWritableType = "F32" | "F16" | "BF16" | "Q8_0";

/** The types that this library writes. */
export const writableTypes: Readonly<Record<GgufWritableType, Writable>> = {
  F32: { ...type("F32", 1, 4, plain("f32")), quantize: rounded("f32") },
  F16: { ...type("F16", 1, 2, plain("f16")), quantize: rounded("f16") },
  BF16: { ...type("BF16", 1, 2, plain("bf16")), quantize: rounded("bf16") },
  Q8_0: { ...type("Q8_0", 32, 34, dequantizeQ8), quantize: quantizeQ8 },
};

/** The types that this library reads, by their numbers in the file (ggml, `enum ggml_type`). */
export const ggufTypes: ReadonlyMap<number, GgufType> = new Map<number, GgufType>([
  [0, writableTypes.F32],
  [1, writableTypes.F16],
  [2, type("Q4_0", 32, 18, (bytes, out) => dequantizeQ4(bytes, out, false))],
  [3, type("Q4_1", 32, 20, (bytes, out) => dequantizeQ4(bytes, out, true))],
  [6, type("Q5_0", 32, 22, (bytes, out) => dequantizeQ5(bytes, out, false))],
  [7, type("Q5_1", 32, 24, (bytes, out) => dequantizeQ5(bytes, out, true))],
  [8, writableTypes.Q8_0],
  [12, type("Q4_K", 256, 144, (bytes, out) => dequantizeQ45K(bytes, out, false))],
  [13, type("Q5_K", 256, 176, (bytes, out) => dequantizeQ45K(bytes, out, true))],
  [14, type("Q6_K", 256, 210, dequantizeQ6K)],
  [30, writableTypes.BF16],
]);

/** The names of the other types that ggml has, by number; it has dropped those that are missing. */
export const unsupportedGgufTypes: ReadonlyMap<number, string> = new Map([
  [9, "Q8_1"],
  [10, "Q2_K"],
  [11, "Q3_K"],
  [15, "Q8_K"],
  [16, "IQ2_XXS"],
  [17, "IQ2_XS"],
  [18, "IQ3_XXS"],
  [19, "IQ1_S"],
  [20, "IQ4_NL"],
  [21, "IQ3_S"],
  [22, "IQ2_S"],
  [23, "IQ4_XS"],
  [24, "I8"],
  [25, "I16"],
  [26, "I32"],
  [27, "I64"],
  [28, "F64"],
  [29, "IQ1_M"],
  [34, "TQ1_0"],
  [35, "TQ2_0"],
  [39, "MXFP4"],
]);
