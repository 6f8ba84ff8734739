import type { BlockDType } from "@transmla/core";

import type { Job, Pool } from "../threads/pool.ts";
import { ModuleBuilder, type MemoryImport } from "../wasm/module.ts";
import {
  webAssembly,
  type WebAssemblyFunction,
  type WebAssemblyMemory,
  type WebAssemblyModule,
} from "../webassembly.ts";
import { defineAttend, defineDivide } from "./attend.ts";
import { defineBlockDots, defineRoundRow, defineWidenBlocks } from "./blocks.ts";
import { defineBoth } from "./both.ts";
import { defineCombine } from "./combine.ts";
import { defineDots } from "./dots.ts";
import type { FewRows } from "./few-rows.ts";
import { brainFloats, doubles, halfFloats, singles, type Format } from "./formats.ts";
import { defineHeadMix, defineHeadScores, defineWidenLines } from "./heads.ts";
import { doubleLanes, floatLanes, type Lanes } from "./lanes.ts";
import {
  arithmetics,
  defineArithmetic,
  defineGate,
  defineMaximum,
  defineScale,
  defineScaleDoubles,
  RUN,
  type Arithmetic,
} from "./lines.ts";
import { defineNorm, defineSumOfSquares, defineWeigh } from "./norm.ts";
import { definePack } from "./pack.ts";
import { defineRope } from "./rope.ts";
import { defineExponentials, defineSoftmax } from "./softmax.ts";
import { definePanelProduct, tileFor } from "./tile.ts";

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

/** Kernels on lines of f32. */
type LineKernelName =
  | "roundRow"
  | "maximum"
  | "exponentials"
  | "scale"
  | "sumOfSquares"
  | "weigh"
  | "gate"
  | "softmax"
  | "norm"
  | "scores"
  | "mix"
  | "attend"
  | "divide"
  | "rotateHalves"
  | "rotatePairs";

/** The names of the kernels: what they do, and what their operands are stored in. */
export type KernelName =
  | LineKernelName
  | `${Arithmetic} lines`
  | `multiplyPanels ${"f32" | "f64"}`
  | `${"packRows" | "packColumns"} ${StoredFormat}`
  | `${"dots" | "combine"}${FewRows} ${FloatFormat}`
  | `${"dots" | "combine"}1 f64`
  | "scale f64"
  | "both f64"
  | `${`dots${FewRows}` | "widen"} ${BlockDType}`
  | `widen ${"f16" | "bf16"}`;

type DefineLines = (module: ModuleBuilder, name: string, lanes: Lanes) => void;

const lineKernels: Readonly<Record<LineKernelName, DefineLines>> = {
  roundRow: defineRoundRow,
  maximum: defineMaximum,
  exponentials: defineExponentials,
  scale: defineScale,
  sumOfSquares: defineSumOfSquares,
  weigh: defineWeigh,
  gate: defineGate,
  softmax: defineSoftmax,
  norm: defineNorm,
  scores: defineHeadScores,
  mix: defineHeadMix,
  attend: defineAttend,
  divide: defineDivide,
  rotateHalves: (module, name, lanes) => defineRope(module, name, lanes, false),
  rotatePairs: (module, name, lanes) => defineRope(module, name, lanes, true),
};

/** All of them. */
export const kernelNames: readonly KernelName[] = [
  ...(Object.keys(lineKernels) as LineKernelName[]),
  ...arithmetics.map((fn) => `${fn} lines` as const),
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
  "widen f16",
  "widen bf16",
  "dots1 f64",
  "combine1 f64",
  "scale f64",
  "both f64",
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
  /** Whether the engine joins vectors in pairs; `false` by default. */
  readonly revectorized?: boolean;
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
  const [name, storage] = kernel.split(" ") as [string, ("lines" | StoredFormat | BlockDType)?];
  const lanes = (storage === "f64" ? doubleLanes : floatLanes)(target.relaxed);
  const rows = Number(name.at(-1));
  if (!storage) lineKernels[name as LineKernelName](module, RUN, lanes);
  else if (storage === "lines") defineArithmetic(module, name as Arithmetic);
  else if (storage === "q8" || storage === "q4") {
    if (name === "widen") defineWidenBlocks(module, storage);
    else defineBlockDots(module, lanes, storage, rows);
  } else {
    const format = formats[storage];
    const tile = tileFor(target.relaxed, target.revectorized ?? false);
    if (name === "scale") defineScaleDoubles(module);
    else if (name === "both") defineBoth(module, lanes);
    else if (name === "multiplyPanels") definePanelProduct(module, lanes, tile);
    else if (name === "packRows") definePack(module, lanes, format, tile.rows);
    else if (name === "packColumns") definePack(module, lanes, format, tile.vectors * lanes.count);
    else if (name === "widen") defineWidenLines(module, lanes, format);
    else if (name.startsWith("dots")) defineDots(module, lanes, format, rows);
    else defineCombine(module, lanes, format, rows);
  }
  return module.bytes();
}

/** Modules that have been compiled, for all backends: they do not depend on a memory. */
const compiled = new Map<string, WebAssemblyModule>();

/** Calls a kernel with its arguments. */
export type Call = (kernel: KernelName, ...arguments_: readonly number[]) => void;

/** Work that can be divided among threads. */
export interface Work {
  /** How many items there are: rows, columns or elements. */
  readonly items: number;
  /** Each thread gets a multiple of this many, but for the last one. */
  readonly multiple: number;
  /** About how long one thread takes. */
  readonly nanoseconds: number;
}

/** What a thread's share of the work has to take at least, in nanoseconds. */
export interface Worth {
  /** When the workers look for work: handing it over takes about a microsecond. */
  readonly awake: number;
  /** When they sleep: it takes them some 50 microseconds to begin. */
  readonly asleep: number;
}

const WORTH: Worth = { awake: 5_000, asleep: 50_000 };

/** Several threads: the caller and the workers. */
export interface Team {
  /** How many there are, the caller included. */
  readonly threads: number;
  /** The workers. */
  readonly pool: Pool;
  /** When they are used. */
  readonly worth?: Worth;
}

/** The kernels over one memory. Each is emitted and compiled when it is first used, which takes about a millisecond. */
export class Kernels {
  /** How many threads there are at most. */
  readonly threads: number;
  /** The register tile of products: its rows, and its columns of either type. */
  readonly tile: { readonly rows: number; readonly f32: number; readonly f64: number };
  readonly #memory: WebAssemblyMemory;
  readonly #target: Target;
  readonly #team: Team | null;
  readonly #functions = new Map<KernelName, WebAssemblyFunction>();
  /** Calls a kernel at once. */
  readonly call: Call = (kernel, ...arguments_) => void this.get(kernel)(...arguments_);

  /**
   * @param memory - Where their operands lie.
   * @param target - What they are made for.
   * @param team - The threads, where there are several.
   */
  constructor(memory: WebAssemblyMemory, target: Target, team: Team | null = null) {
    this.#memory = memory;
    this.#target = target;
    this.#team = team;
    this.threads = team?.threads ?? 1;
    const { rows, vectors } = tileFor(target.relaxed, target.revectorized ?? false);
    this.tile = { rows, f32: 4 * vectors, f64: 2 * vectors };
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

  /**
   * Divides work among threads. Each item is computed by one of them, so that results do not depend on how many there are.
   *
   * @param work - How much there is.
   * @param share - Makes the calls for the items from `begin` on, before `end`. It is called once for each share, and
   *   perhaps a second time: it depends on its arguments only. Shares with different indices, below {@link threads}, may
   *   run at the same time.
   */
  split(work: Work, share: (call: Call, begin: number, end: number, index: number) => void): void {
    const { items, multiple } = work;
    const threads = this.#team ? threadsFor(work, this.#team) : 1;
    const size = Math.ceil(items / multiple / threads) * multiple;
    // Rounding up may leave nothing for the last ones.
    const parts = Math.ceil(items / size);
    if (!this.#team || parts <= 1) {
      share(this.call, 0, items, 0);
      return;
    }
    const { pool } = this.#team;
    const run = (call: Call, index: number): void => {
      share(call, Math.min(index * size, items), Math.min((index + 1) * size, items), index);
    };
    const posted: number[] = [];
    try {
      for (let index = 1; index < parts; index++) {
        const job = recorded((call) => run(call, index));
        if (pool.post(index - 1, job)) posted.push(index);
        else run(this.call, index);
      }
      run(this.call, 0);
    } finally {
      // Also when something was thrown: scratch must not be given back while a worker uses it.
      for (const index of posted) {
        if (!pool.collect(index - 1)) run(this.call, index);
      }
    }
    pool.requireHealth();
  }
}

/** Among how many threads work is divided. */
function threadsFor(
  { items, multiple, nanoseconds }: Work,
  { threads, pool, worth = WORTH }: Team,
): number {
  const share = pool.isAwake(0) ? worth.awake : worth.asleep;
  const most = Math.min(threads, Math.floor(nanoseconds / share), Math.ceil(items / multiple));
  return Math.max(most, 1);
}

const indices = new Map(kernelNames.map((kernel, index) => [kernel, index]));

/** The calls that are made, as a job. */
function recorded(body: (call: Call) => void): Job {
  const job: Job = { numbers: [], kernels: new Set() };
  body((kernel, ...arguments_) => {
    const index = indices.get(kernel)!;
    job.kernels.add(index);
    job.numbers.push(index, arguments_.length, ...arguments_);
  });
  return job;
}
