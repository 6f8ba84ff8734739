import type { BlockDType } from "@transmla/core";

import { ModuleBuilder, type MemoryImport } from "../wasm/module.ts";
import {
  webAssembly,
  type WebAssemblyFunction,
  type WebAssemblyMemory,
  type WebAssemblyModule,
} from "../webassembly.ts";
import { defineBlockDots, defineRoundRow, defineWidenBlocks } from "./blocks.ts";
import { defineCombine } from "./combine.ts";
import { defineDots } from "./dots.ts";
import type { FewRows } from "./few-rows.ts";
import { brainFloats, doubles, halfFloats, singles, type Format } from "./formats.ts";
import { doubleLanes, floatLanes, type Lanes } from "./lanes.ts";
import {
  defineExponentials,
  defineGate,
  defineMaximum,
  defineScale,
  defineSumOfSquares,
  defineWeigh,
} from "./lines.ts";
import { definePack } from "./pack.ts";
import { definePanelProduct, TILE_ROWS, TILE_VECTORS } from "./tile.ts";

/** How the elements of a matrix may be stored for a product in f32. */
export type FloatFormat = "f32" | "f16" | "bf16";

/** How the elements of a matrix may be stored. f64 is multiplied in f64. */
type StoredFormat = FloatFormat | "f64";

const formats: Readonly<Record<StoredFormat, Format>> = {
  f32: singles,
  f16: halfFloats,
  bf16: brainFloats,
  f64: doubles,
};

/** Columns of the register tile. */
export const TILE_COLUMNS: Readonly<Record<"f32" | "f64", number>> = {
  f32: 4 * TILE_VECTORS,
  f64: 2 * TILE_VECTORS,
};

/** Kernels on lines of f32. */
type LineKernelName =
  | "roundRow"
  | "maximum"
  | "exponentials"
  | "scale"
  | "sumOfSquares"
  | "weigh"
  | "gate";

/** The names of the kernels: what they do, and what their operands are stored in. */
export type KernelName =
  | LineKernelName
  | `multiplyPanels ${"f32" | "f64"}`
  | `${"packRows" | "packColumns"} ${StoredFormat}`
  | `${"dots" | "combine"}${FewRows} ${FloatFormat}`
  | `${"dots" | "combine"}1 f64`
  | `${`dots${FewRows}` | "widen"} ${BlockDType}`;

const lineKernels: Readonly<Record<LineKernelName, (module: ModuleBuilder, lanes: Lanes) => void>> =
  {
    roundRow: defineRoundRow,
    maximum: defineMaximum,
    exponentials: defineExponentials,
    scale: defineScale,
    sumOfSquares: defineSumOfSquares,
    weigh: defineWeigh,
    gate: defineGate,
  };

/** All of them. */
export const kernelNames: readonly KernelName[] = [
  ...(Object.keys(lineKernels) as LineKernelName[]),
  "multiplyPanels f32",
  "multiplyPanels f64",
  ...(["f32", "f16", "bf16", "f64"] as const).flatMap((format) => {
    return [`packRows ${format}`, `packColumns ${format}`] as const;
  }),
  ...(["f32", "f16", "bf16"] as const).flatMap((format) => {
    return ([1, 2, 4] as const).flatMap((rows) => {
      return [`dots${rows} ${format}`, `combine${rows} ${format}`] as const;
    });
  }),
  "dots1 f64",
  "combine1 f64",
  ...(["q8", "q4"] as const).flatMap((format) => {
    return [
      `widen ${format}`,
      ...([1, 2, 4] as const).map((rows) => `dots${rows} ${format}` as const),
    ] as const;
  }),
];

/** What code is made for. */
export interface Target {
  /** Whether relaxed instructions are used. */
  readonly relaxed: boolean;
  /** How modules see the memory. */
  readonly memory?: MemoryImport;
}

/**
 * The bytes of the module that holds a kernel. It exports one function, `run`.
 *
 * @param kernel - Its name.
 * @param target - What for.
 */
export function emit(kernel: KernelName, target: Target): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder(target.memory);
  const [name, storage] = kernel.split(" ") as [string, (StoredFormat | BlockDType)?];
  const lanes = (storage === "f64" ? doubleLanes : floatLanes)(target.relaxed);
  const rows = Number(name.at(-1));
  if (!storage) lineKernels[name as LineKernelName](module, lanes);
  else if (storage === "q8" || storage === "q4") {
    if (name === "widen") defineWidenBlocks(module, storage);
    else defineBlockDots(module, lanes, storage, rows);
  } else {
    const format = formats[storage];
    if (name === "multiplyPanels") definePanelProduct(module, lanes);
    else if (name === "packRows") definePack(module, lanes, format, TILE_ROWS);
    else if (name === "packColumns") definePack(module, lanes, format, TILE_VECTORS * lanes.count);
    else if (name.startsWith("dots")) defineDots(module, lanes, format, rows);
    else defineCombine(module, lanes, format, rows);
  }
  return module.bytes();
}

/** Modules that have been compiled, for all backends: they do not depend on a memory. */
const compiled = new Map<string, WebAssemblyModule>();

/** The kernels over one memory. Each is emitted and compiled when it is first used, which takes about a millisecond. */
export class Kernels {
  readonly #memory: WebAssemblyMemory;
  readonly #target: Target;
  readonly #functions = new Map<KernelName, WebAssemblyFunction>();

  /**
   * @param memory - Where their operands lie.
   * @param target - What they are made for.
   */
  constructor(memory: WebAssemblyMemory, target: Target) {
    this.#memory = memory;
    this.#target = target;
  }

  /**
   * A kernel. The order of its arguments is told where it is defined; addresses and steps are in bytes.
   *
   * @param kernel - Its name.
   */
  get(kernel: KernelName): WebAssemblyFunction {
    let run = this.#functions.get(kernel);
    if (!run) {
      const key = `${kernel} ${JSON.stringify(this.#target)}`;
      const module = compiled.get(key) ?? new webAssembly.Module(emit(kernel, this.#target));
      compiled.set(key, module);
      const imports = { env: { memory: this.#memory } };
      run = new webAssembly.Instance(module, imports).exports["run"]!;
      this.#functions.set(kernel, run);
    }
    return run;
  }
}
